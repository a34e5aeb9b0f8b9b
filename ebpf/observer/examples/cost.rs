//! What each probe costs, by the kernel's own account, while connections over loopback are opened, used and closed:
//! `cargo run -p sluice-observer --example cost [CONNECTIONS] [EXCHANGES_ON_EACH]`, after
//! `sysctl kernel.bpf_stats_enabled=1` (and set it back to 0: the account itself costs).

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use sluice_observer::{Observer, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let connections: u32 = arguments.next().map_or(Ok(5_000), |text| text.parse())?;
    let exchanges: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let observer = Observer::start(&Options { ports: vec![address.port()], ..Options::default() })?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            echo(stream);
        }
    });
    for _ in 0..connections {
        let mut client = TcpStream::connect(address)?;
        for _ in 0..exchanges {
            client.write_all(b"ping")?;
            client.read_exact(&mut [0; 4])?;
        }
    }
    println!("{connections} connections, {exchanges} exchanges on each, both ends watched");
    for cost in observer.costs() {
        let mean = cost.time.as_nanos().checked_div(u128::from(cost.runs)).unwrap_or(0);
        println!("{:<14}{:>9} runs of {mean} ns", cost.probe.name(), cost.runs);
    }
    Ok(())
}

/// Answers with what it got until the client is done.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4];
    while stream.read_exact(&mut buffer).and_then(|()| stream.write_all(&buffer)).is_ok() {}
}
