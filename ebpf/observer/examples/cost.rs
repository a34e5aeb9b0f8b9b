//! What each probe costs, by the kernel's own account, while connections over loopback are opened, used and closed.
//!
//! `sysctl kernel.bpf_stats_enabled=1 && cargo run -p sluice-observer --example cost; sysctl kernel.bpf_stats_enabled=0`

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use sluice_observer::{Observer, Options};

const CONNECTIONS: usize = 5_000;
const EXCHANGES: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let observer = Observer::start(&Options { ports: vec![address.port()], ..Options::default() })?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            echo(stream);
        }
    });
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(address)?;
        for _ in 0..EXCHANGES {
            client.write_all(b"ping")?;
            client.read_exact(&mut [0; 4])?;
        }
    }
    println!("{CONNECTIONS} connections, {EXCHANGES} exchanges each, both ends watched");
    for cost in observer.costs() {
        let mean = cost.time.as_nanos().checked_div(u128::from(cost.runs)).unwrap_or(0);
        println!("{:<14}{:>9} runs, {mean} ns each", cost.probe.name(), cost.runs);
    }
    Ok(())
}

/// Answers with what it got until the client is done.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4];
    while stream.read_exact(&mut buffer).and_then(|()| stream.write_all(&buffer)).is_ok() {}
}
