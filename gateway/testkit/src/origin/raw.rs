//! An origin that speaks literal bytes, for answers that no HTTP library would write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A running origin of literal bytes; it ends when dropped.
pub struct RawOrigin {
    address: SocketAddr,
    heads: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: CancellationToken,
}

/// Starts an origin that reads one request head per connection, writes `answer` as it is, and closes.
pub async fn raw_origin(answer: impl Into<Bytes>) -> RawOrigin {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
    let address = listener.local_addr().expect("the address of a bound listener");
    let (stop, heads) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let (stopped, counted, kept) = (stop.clone(), Arc::clone(&heads), Arc::clone(&received));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let (answer, stopped, counted) = (answer.clone(), stopped.clone(), Arc::clone(&counted));
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                tokio::select! {
                    () = speak(stream, &answer, &counted, &kept) => {}
                    () = stopped.cancelled() => {}
                }
            });
        }
    });
    RawOrigin { address, heads, received, stop }
}

impl RawOrigin {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many request heads it has read.
    #[must_use]
    pub fn count(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }

    /// What came on each connection that sent a whole head: the head and what of a body came with it, byte for byte. A
    /// connection's place is that of its head's end.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().clone()
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn speak(mut stream: TcpStream, answer: &[u8], heads: &AtomicUsize, received: &Mutex<Vec<Vec<u8>>>) {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(length) => head.extend_from_slice(&piece[..length]),
        }
    }
    let place = {
        let mut received = received.lock();
        received.push(head);
        received.len() - 1
    };
    heads.fetch_add(1, Ordering::Relaxed);
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    // What the peer still sends is read, so that closing does not become a reset that overtakes the answer.
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        received.lock()[place].extend_from_slice(&piece[..length]);
    }
}
