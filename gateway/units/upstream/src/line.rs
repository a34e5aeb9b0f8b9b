//! The open connections: one [`Line`] each, from the moment TCP is up until it is closed.
//!
//! Pingora owns its sockets and gives each read a timer of its own. That leaves two things undone, and a line does them.
//!
//! * **Deadlines that hold.** A timer per read never fires on an upstream that sends its header one byte at a time. A line
//!   keeps a second handle to its socket. A request notes on it when it must have made progress and when it must be over;
//!   [`Lines::cut_overdue`], called ten times a second, resets each connection that is past either. Pingora then reads an
//!   error and gives up, and the request finds on its line why. (An orderly shutdown would not do: a body that ends with
//!   its connection would pass for whole.) Per request this costs a few stores, no timer.
//! * **Connections counted where they are**, in use or pooled, so that their number per endpoint has a real bound, and an
//!   idle close by the other end can be told from one of ours.
//!
//! Only HTTP/1 requests note anything, since they have the connection to themselves; an HTTP/2 connection has other
//! requests to consider, and Pingora's timer there covers whole headers.
//!
//! The price is a second file descriptor per upstream connection. A silent body is cut only when nothing of it waits in the
//! kernel's buffer: bytes that wait mean a slow client, which is not the upstream's fault.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::{Tracer, Tracing};
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

use crate::endpoint::EndpointState;
use crate::time::{Epoch, Ticks};

/// No deadline.
const NEVER: Ticks = 0;
/// Cut: no deadline is taken any more.
const CUT: Ticks = Ticks::MAX;

/// How far the exchange on a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Awaiting {
    /// The response's header, every byte of it.
    Header = 0,
    /// More of a body.
    Body = 1,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Line {
    fd: RawFd,
    /// Gone once the connection is closed or cut: a socket is open as long as any handle is.
    held: Mutex<Option<Held>>,
    endpoint: Arc<EndpointState>,
    /// When to look whether to cut; [`NEVER`] or [`CUT`].
    due: AtomicU64,
    /// When everything must be over; [`NEVER`] where nothing says so.
    ends: AtomicU64,
    awaiting: AtomicU8,
    requests: AtomicU32,
    in_use: AtomicU32,
    /// The pool's key of its latest request.
    key: AtomicU64,
    /// When the last request on it ended.
    idle_since: AtomicU64,
}

#[derive(Debug)]
struct Held {
    socket: Socket,
    _place: Place,
}

/// One of the connections that an endpoint may have. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place(Arc<EndpointState>);

impl Place {
    /// None when there are `most`.
    pub(crate) fn take(endpoint: &Arc<EndpointState>, most: u32) -> Option<Self> {
        endpoint.opened(most).then(|| Self(Arc::clone(endpoint)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl Line {
    /// A request begins on it, taken from the pool or put there under this key. The number it gets tells it from the ones
    /// before and after.
    pub(crate) fn begin(&self, key: u64) -> u32 {
        self.in_use.fetch_add(1, Ordering::AcqRel);
        self.key.store(key, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::AcqRel).wrapping_add(1)
    }

    /// The request, which has the line to itself, must be over by then.
    pub(crate) fn ends(&self, ends: Option<Ticks>) {
        self.ends.store(ends.unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// It made progress, and must again before `due`.
    pub(crate) fn expect(&self, awaiting: Awaiting, due: Ticks) {
        self.awaiting.store(awaiting as u8, Ordering::Relaxed);
        let ends = self.ends.load(Ordering::Relaxed);
        let due = if ends == NEVER { due } else { due.min(ends) };
        if self.due.swap(due, Ordering::AcqRel) == CUT {
            self.due.store(CUT, Ordering::Release);
        }
    }

    /// That request is over. Pingora may have given the connection to the next one already, whose deadline stays.
    pub(crate) fn end(&self, number: u32, now: Ticks) {
        self.idle_since.store(now, Ordering::Relaxed);
        // In this order: a later request raises the number before it sets its own deadline, so a deadline read before the
        // number is found unchanged is this request's.
        let due = self.due.load(Ordering::Acquire);
        if self.requests.load(Ordering::Acquire) == number && due != CUT && due != NEVER {
            // It fails when the line was cut or taken over since, and then what is there must stay.
            let _ = self.due.compare_exchange(due, NEVER, Ordering::AcqRel, Ordering::Relaxed);
        }
        self.in_use.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether it was cut.
    pub(crate) fn was_cut(&self) -> bool {
        self.due.load(Ordering::Acquire) == CUT
    }

    /// Whether it lies in the pool.
    fn idle(&self) -> bool {
        self.in_use.load(Ordering::Acquire) == 0 && self.requests.load(Ordering::Relaxed) > 0
    }

    fn cut_if_overdue(&self, now: Ticks, patience: Ticks) -> bool {
        let due = self.due.load(Ordering::Acquire);
        if due == NEVER || due == CUT || now < due {
            return false;
        }
        let ends = self.ends.load(Ordering::Relaxed);
        let over = ends != NEVER && now >= ends;
        let body = self.awaiting.load(Ordering::Relaxed) == Awaiting::Body as u8;
        if !over && body && self.unread() {
            let again = now.saturating_add(patience);
            let _ = self.due.compare_exchange(due, again, Ordering::AcqRel, Ordering::Relaxed);
            return false;
        }
        self.cut(due)
    }

    fn unread(&self) -> bool {
        let held = self.held.lock();
        held.as_ref().is_some_and(|held| rustix::io::ioctl_fionread(&held.socket).is_ok_and(|bytes| bytes > 0))
    }

    /// Cuts it, unless its deadline is no longer the one seen.
    fn cut(&self, seen: Ticks) -> bool {
        // Whoever exchanges the value read owns the decision: a request that began meanwhile has set another.
        if self.due.compare_exchange(seen, CUT, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        if let Some(held) = self.held.lock().take()
            && rustix::net::connect_unspec(&held.socket).is_err()
        {
            // It is not connected any more, which is as good.
            let _ = held.socket.shutdown(std::net::Shutdown::Both);
        }
        true
    }
}

const SHARDS: usize = 16;

/// All open connections, by the number of their socket.
#[derive(Debug)]
pub(crate) struct Lines {
    shards: [RwLock<HashMap<RawFd, Arc<Line>>>; SHARDS],
    epoch: Epoch,
}

impl Lines {
    pub(crate) fn new(epoch: Epoch) -> Arc<Self> {
        Arc::new(Self { shards: Default::default(), epoch })
    }

    fn shard(&self, fd: RawFd) -> &RwLock<HashMap<RawFd, Arc<Line>>> {
        &self.shards[usize::try_from(fd).unwrap_or(0) % SHARDS]
    }

    /// Takes a new connection in, and wraps it so that its end is noticed.
    pub(crate) fn open(self: &Arc<Self>, tcp: TcpStream, place: Place) -> std::io::Result<Stream> {
        let socket = SockRef::from(&tcp).try_clone()?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&tcp);
        let endpoint = Arc::clone(&place.0);
        let line = Arc::new(Line {
            fd,
            held: Mutex::new(Some(Held { socket, _place: place })),
            endpoint,
            due: AtomicU64::new(NEVER),
            ends: AtomicU64::new(NEVER),
            awaiting: AtomicU8::new(Awaiting::Header as u8),
            requests: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            key: AtomicU64::new(0),
            idle_since: AtomicU64::new(NEVER),
        });
        self.shard(fd).write().insert(fd, Arc::clone(&line));
        let mut stream = Stream::from(tcp);
        stream.tracer = Some(Tracer(Box::new(Hold { line, lines: Arc::clone(self) })));
        Ok(stream)
    }

    /// Cuts one pooled connection to this endpoint that no request will take any more, because the pool's key is another
    /// by now; says whether there was one.
    pub(crate) fn evict(&self, endpoint: &Arc<EndpointState>, key: u64) -> bool {
        self.shards.iter().any(|shard| {
            shard.read().values().any(|line| {
                let stale =
                    Arc::ptr_eq(&line.endpoint, endpoint) && line.idle() && line.key.load(Ordering::Relaxed) != key;
                stale && line.cut(NEVER)
            })
        })
    }

    /// The connection with this socket.
    pub(crate) fn get(&self, fd: RawFd) -> Option<Arc<Line>> {
        self.shard(fd).read().get(&fd).cloned()
    }

    /// Shuts down every connection whose time has run out; says how many.
    pub(crate) fn cut_overdue(&self, patience: std::time::Duration) -> usize {
        let now = self.epoch.now();
        let patience = Epoch::length(patience);
        let mut cut = 0;
        for shard in &self.shards {
            for line in shard.read().values() {
                if line.cut_if_overdue(now, patience) {
                    line.endpoint.metrics.cut.inc();
                    cut += 1;
                }
            }
        }
        cut
    }

    fn close(&self, line: &Arc<Line>) {
        {
            let mut shard = self.shard(line.fd).write();
            // The socket is open still, so its number cannot be another's yet, unless this line was closed before.
            if shard.get(&line.fd).is_some_and(|found| Arc::ptr_eq(found, line)) {
                shard.remove(&line.fd);
            }
        }
        let held = line.held.lock().take();
        if held.is_some() && line.idle() {
            line.endpoint.closed_idle(self.epoch.now().saturating_sub(line.idle_since.load(Ordering::Relaxed)));
        }
    }
}

/// Held by Pingora's stream, which tells it when it is dropped.
struct Hold {
    line: Arc<Line>,
    lines: Arc<Lines>,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("fd", &self.line.fd).finish_non_exhaustive()
    }
}

impl Tracing for Hold {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        self.lines.close(&self.line);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Self { line: Arc::clone(&self.line), lines: Arc::clone(&self.lines) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::time::Duration;

    use sluice_vocabulary::UpstreamName;
    use sluice_vocabulary::clock::ManualClock;
    use tokio::net::TcpListener;

    const SECOND: Ticks = 1_000_000_000;

    struct Pair {
        clock: ManualClock,
        lines: Arc<Lines>,
        endpoint: Arc<EndpointState>,
        stream: Option<Stream>,
        line: Arc<Line>,
        _far: TcpStream,
    }

    async fn pair() -> Pair {
        let clock = ManualClock::at(0);
        let lines = Lines::new(Epoch::new(Arc::new(clock.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
        let metrics = crate::Metrics::new(&mut prometheus_client::registry::Registry::default());
        let endpoint = EndpointState::new(address, metrics.of(&UpstreamName::new("u").unwrap()));
        let stream = lines.open(near, Place::take(&endpoint, 1).unwrap()).unwrap();
        let line = lines.get(fd).unwrap();
        Pair { clock, lines, endpoint, stream: Some(stream), line, _far: listener.accept().await.unwrap().0 }
    }

    #[tokio::test]
    async fn the_end_of_a_request_leaves_the_next_ones_deadline_alone() {
        let pair = pair().await;
        let first = pair.line.begin(7);
        pair.line.expect(Awaiting::Header, 5 * SECOND);
        // Pingora gives the connection to the next request before the first has been accounted for.
        let second = pair.line.begin(7);
        pair.line.expect(Awaiting::Header, 9 * SECOND);
        pair.line.end(first, SECOND);
        pair.clock.advance(Duration::from_secs(8));
        assert_eq!(pair.lines.cut_overdue(Duration::ZERO), 0);
        pair.clock.advance(Duration::from_secs(2));
        assert_eq!(pair.lines.cut_overdue(Duration::ZERO), 1);
        assert!(pair.line.was_cut());
        pair.line.end(second, 10 * SECOND);
        assert!(pair.line.was_cut(), "once cut, always cut");
    }

    #[tokio::test]
    async fn what_is_in_use_or_still_wanted_is_not_evicted() {
        let pair = pair().await;
        assert!(!pair.lines.evict(&pair.endpoint, 8), "it carried nothing yet");
        let request = pair.line.begin(7);
        assert!(!pair.lines.evict(&pair.endpoint, 8), "in use");
        pair.line.end(request, SECOND);
        assert!(!pair.lines.evict(&pair.endpoint, 7), "the pool would give it out still");
        assert_eq!(pair.endpoint.open(), 1);
        assert!(pair.lines.evict(&pair.endpoint, 8));
        assert_eq!(pair.endpoint.open(), 0);
    }

    #[tokio::test]
    async fn a_line_ends_with_its_stream_and_gives_its_place_back_once() {
        let mut pair = pair().await;
        let request = pair.line.begin(7);
        pair.line.end(request, SECOND);
        pair.clock.advance(Duration::from_secs(3));
        drop(pair.stream.take());
        assert_eq!(pair.endpoint.open(), 0);
        assert!(pair.lines.get(pair.line.fd).is_none());
        assert!(pair.line.held.lock().is_none(), "nothing keeps the socket open");
        let idle = pair.endpoint.learned.last_idle_close().unwrap();
        assert!((Duration::from_millis(1_900)..Duration::from_millis(2_100)).contains(&idle), "{idle:?}");
    }
}
