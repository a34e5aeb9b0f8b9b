//! The stream guard: what Pingora reads from and writes to in place of the client's socket.
//!
//! For HTTP/1 it hands Pingora exactly one request's body and nothing of the next, and keeps what the client sends
//! ahead for the round after. It enforces the deadlines and sizes that Pingora has no notion of, and gathers a small
//! answer's head and body into one system call. After a 101 it lets everything through; for HTTP/2 it watches frames.
//!
//! Pingora owns its stream and drops it at its own discretion, but we may still have something to say to the client, or
//! bytes to drain so that our last answer is not lost to a reset. So a guard that is dropped puts its insides back
//! [`Home`], where the connection's loop finds them.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::body::Body;
use crate::breach::Breach;
use crate::control::StreamControl;
use crate::frames::{Frames, Partial};
use crate::head::{Framing, Head};
use crate::settings::Settings;
use crate::socket::Socket;
use crate::timer::Timer;

/// Bytes read at once where they are not read straight into Pingora's buffer. On the stack, so that idle connections
/// hold no buffer at all.
const READ: usize = 16 * 1024;
/// Bytes a client may send ahead while a request is in progress; beyond them it waits.
const AHEAD: usize = 32 * 1024;
/// Bytes of an answer that are gathered before they are sent: a head and a small body, or many small chunks.
const GATHER: usize = 4 * 1024;
/// Buffers larger than this are given back while a connection is idle.
const KEEP: usize = 2 * 1024;

/// What Pingora is told about a connection, the same for all its requests.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) proxy: Option<Arc<ProxyDigest>>,
    pub(crate) socket: Arc<SocketDigest>,
    pub(crate) ssl: Option<Arc<SslDigest>>,
}

/// Where a dropped guard leaves its insides.
pub(crate) type Home = Arc<Mutex<Option<Box<Core>>>>;

/// Pingora's view of the client.
pub(crate) struct Guard {
    /// There until the guard is dropped.
    core: Option<Box<Core>>,
    facts: Arc<Facts>,
    home: Home,
}

/// The insides of a guard: all that lives as long as the connection.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) socket: Socket,
    /// Received and not yet handed on.
    pub(crate) received: BytesMut,
    /// The client has ended its side.
    pub(crate) ended: bool,
    pub(crate) settings: Arc<Settings>,
    pub(crate) timer: Timer,
    mode: Mode,
    control: Arc<StreamControl>,

    body: Body,
    body_received: u64,
    /// How long this body was waited for in all, and since when it is being waited for now.
    body_waited: Duration,
    waiting_since: Option<Instant>,
    breach: Option<Breach>,
    /// A final answer to this request has begun.
    answered: bool,
    upgrade_asked: bool,
    /// The client waits for our 100: until then its silence is ours.
    continue_owed: bool,
    frames: Frames,

    out: Vec<u8>,
    out_sent: usize,
    write_timer: Timer,
    stalled_since: Option<Instant>,
    /// The client took nothing for too long.
    pub(crate) write_stalled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One HTTP/1 request after another.
    Http1,
    /// Whatever the 101 made of it.
    Upgraded,
    Http2,
}

impl Core {
    pub(crate) fn new(socket: Socket, settings: Arc<Settings>, control: Arc<StreamControl>) -> Box<Self> {
        Box::new(Self {
            socket,
            received: BytesMut::new(),
            ended: false,
            settings,
            timer: Timer::default(),
            mode: Mode::Http1,
            control,
            body: Body::new(Framing::Length(0)),
            body_received: 0,
            body_waited: Duration::ZERO,
            waiting_since: None,
            breach: None,
            answered: false,
            upgrade_asked: false,
            continue_owed: false,
            frames: Frames::new(),
            out: Vec::new(),
            out_sent: 0,
            write_timer: Timer::default(),
            stalled_since: None,
            write_stalled: false,
        })
    }

    /// From here on a request with this head is handed on.
    pub(crate) fn begin_request(&mut self, head: &Head) {
        self.body = Body::new(head.framing);
        self.body_received = 0;
        self.body_waited = Duration::ZERO;
        self.waiting_since = None;
        self.breach = None;
        self.answered = false;
        self.upgrade_asked = head.upgrade;
        self.continue_owed = head.expects_continue;
        self.control.begin(self.settings.body.size);
    }

    /// From here on the connection speaks HTTP/2, beginning with what was received already.
    pub(crate) fn begin_http2(&mut self) {
        self.mode = Mode::Http2;
        self.control.retire();
    }

    /// Whether the request was received whole, and the next may be read.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.mode == Mode::Http1 && self.body.is_done() && self.breach.is_none()
    }

    /// Whether the client may still be sending something that nobody will read.
    pub(crate) fn has_unread(&self) -> bool {
        !self.ended && (!self.is_between_requests() || !self.received.is_empty())
    }

    /// The breach that nobody has answered yet.
    pub(crate) fn unanswered_breach(&self) -> Option<Breach> {
        self.breach.filter(|_| !self.answered)
    }

    /// The breach within the request's body.
    pub(crate) fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Gives back what an idle connection need not hold.
    pub(crate) fn slim(&mut self) {
        if self.received.is_empty() && self.received.capacity() > KEEP {
            self.received = BytesMut::new();
        }
        if self.out.is_empty() && self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
    }

    /// Reads what is there to `received`; 0 means that the client has ended its side.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [const { MaybeUninit::<u8>::uninit() }; READ];
        let mut scratch = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut scratch))?;
        let filled = scratch.filled();
        self.ended |= filled.is_empty();
        self.received.extend_from_slice(filled);
        Poll::Ready(Ok(filled.len()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match self.mode {
            Mode::Http1 if self.body.is_done() => self.poll_gone(cx),
            Mode::Http1 => self.poll_body(cx, out),
            Mode::Upgraded => self.poll_straight(cx, out),
            Mode::Http2 => self.poll_frames(cx, out),
        }
    }

    /// The request is whole: nothing more is handed on, but that the client went away is.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended {
            if self.received.len() >= AHEAD {
                return Poll::Pending;
            }
            ready!(self.poll_fill(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(breach) = self.breach {
            return Poll::Ready(Err(self.fail(breach)));
        }
        loop {
            if self.body.announced() > self.control.body_limit() {
                return Poll::Ready(Err(self.fail(Breach::BodySize)));
            }
            if !self.received.is_empty() {
                let offered = self.received.len().min(out.remaining());
                let taken = match self.body.follow(&self.received[..offered]) {
                    Ok(taken) => taken,
                    Err(breach) => return Poll::Ready(Err(self.fail(breach))),
                };
                if self.body.announced() > self.control.body_limit() {
                    return Poll::Ready(Err(self.fail(Breach::BodySize)));
                }
                out.put_slice(&self.received[..taken]);
                self.received.advance(taken);
                self.body_received += taken as u64;
                return Poll::Ready(Ok(()));
            }
            // The inside of a body or chunk goes straight to Pingora's buffer, and not a byte beyond; only the lines
            // between chunks come through ours.
            let read = match self.body.unseen() {
                Some(left) => {
                    let before = out.filled().len();
                    let read = Pin::new(&mut (&mut self.socket).take(left)).poll_read(cx, out);
                    let count = out.filled().len() - before;
                    self.body.passed(count as u64);
                    self.body_received += count as u64;
                    self.ended |= read.is_ready() && count == 0;
                    read.map_ok(|()| true)
                }
                None => self.poll_fill(cx).map_ok(|count| count == 0),
            };
            match read {
                Poll::Pending => {
                    ready!(self.poll_body_deadline(cx));
                    // It passed.
                    let breach = self.body_deadline_breach();
                    return Poll::Ready(Err(self.fail(breach)));
                }
                Poll::Ready(result) => {
                    if let Some(since) = self.waiting_since.take() {
                        self.body_waited += since.elapsed();
                    }
                    self.continue_owed = false;
                    if result? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Ready when the client is too slow. Time counts only while we wait here, so that a slow upstream is not held
    /// against the client.
    fn poll_body_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.continue_owed || self.control.is_streaming() {
            self.waiting_since = None;
            return Poll::Pending;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let rules = &self.settings.body;
        let patience = match rules.allowance(self.body_received) {
            Some(allowed) => rules.silence.min(allowed.saturating_sub(self.body_waited)),
            None => rules.silence,
        };
        self.timer.poll(since + patience, cx)
    }

    fn body_deadline_breach(&self) -> Breach {
        let silent = self.waiting_since.is_some_and(|since| since.elapsed() >= self.settings.body.silence);
        if silent { Breach::BodySilence } else { Breach::BodyRate }
    }

    fn poll_straight(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, out);
        }
        let count = self.received.len().min(out.remaining());
        out.put_slice(&self.received[..count]);
        self.received.advance(count);
        Poll::Ready(Ok(()))
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        if self.poll_straight(cx, out)?.is_ready() {
            if self.frames.follow(&out.filled()[before..]) {
                self.waiting_since = None;
            }
            return Poll::Ready(Ok(()));
        }
        let patience = match self.frames.partial() {
            Partial::Nothing => {
                self.waiting_since = None;
                return Poll::Pending;
            }
            Partial::Other => self.settings.header_timeout,
            // One frame of 16 KiB at the slowest rate allowed.
            Partial::Data => self.settings.body.allowance(16 * 1024).unwrap_or(Duration::from_secs(3600)),
        };
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(since + patience, cx));
        Poll::Ready(Err(self.fail(Breach::FrameTimeout)))
    }

    fn fail(&mut self, breach: Breach) -> io::Error {
        self.breach = Some(breach);
        self.control.set_breach(breach);
        io::Error::other(breach)
    }

    /// Gathers or sends; gives how many of the parts' bytes were taken.
    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let is_head = self.mode == Mode::Http1 && !self.answered;
        if is_head && let Some(first) = parts.iter().find(|part| !part.is_empty()) {
            self.note_answer(first);
        }
        // A head is always gathered whole, so that the next write begins the next head or the body.
        if is_head || (self.mode == Mode::Http1 && self.gathered().len() + total <= GATHER) {
            parts.iter().for_each(|part| self.out.extend_from_slice(part));
            return Poll::Ready(Ok(total));
        }
        loop {
            let gathered = &self.out[self.out_sent..];
            let ahead = gathered.len();
            let sent = if ahead == 0 {
                Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
            } else {
                let all: SmallVec<[IoSlice<'_>; 8]> =
                    std::iter::once(IoSlice::new(gathered)).chain(parts.iter().copied()).collect();
                Pin::new(&mut self.socket).poll_write_vectored(cx, &all)
            };
            let sent = match sent {
                Poll::Pending => return self.poll_stalled(cx),
                Poll::Ready(sent) => sent?,
            };
            self.stalled_since = None;
            if sent < ahead {
                if sent == 0 {
                    return Poll::Ready(Ok(0));
                }
                self.out_sent += sent;
                continue;
            }
            self.out.clear();
            self.out_sent = 0;
            if sent > ahead || ahead == 0 {
                return Poll::Ready(Ok(sent - ahead));
            }
        }
    }

    fn gathered(&self) -> &[u8] {
        &self.out[self.out_sent..]
    }

    /// Looks at the first bytes of an answer's head: Pingora writes each head in one piece.
    fn note_answer(&mut self, head: &[u8]) {
        self.continue_owed = false;
        match head.strip_prefix(b"HTTP/1.1 ").map(|rest| rest.get(..3).unwrap_or(rest)) {
            Some(b"101") if self.upgrade_asked => {
                self.answered = true;
                self.mode = Mode::Upgraded;
            }
            Some([b'1', ..]) => {}
            _ => self.answered = true,
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_sent < self.out.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.out[self.out_sent..]) {
                Poll::Pending => return self.poll_stalled(cx),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(sent) => {
                    self.out_sent += sent?;
                    self.stalled_since = None;
                }
            }
        }
        self.out.clear();
        self.out_sent = 0;
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.poll_stalled(cx),
            Poll::Ready(flushed) => {
                self.stalled_since = None;
                Poll::Ready(flushed)
            }
        }
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => self.poll_stalled(cx),
            shut => shut,
        }
    }

    /// An error once the client has taken nothing for too long.
    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll(since + self.settings.write_timeout, cx));
        self.write_stalled = true;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Guard {
    pub(crate) fn new(core: Box<Core>, facts: Arc<Facts>, home: Home) -> Box<Self> {
        Box::new(Self { core: Some(core), facts, home })
    }

    /// The insides; there as long as the guard is.
    pub(crate) fn core_mut(&mut self) -> Option<&mut Core> {
        self.core.as_deref_mut()
    }

    fn core(&mut self) -> io::Result<&mut Core> {
        // Only taken when the guard itself is dropped.
        self.core_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            *self.home.lock() = Some(core);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("fd", &self.id()).finish_non_exhaustive()
    }
}

impl AsyncRead for Guard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.core()?.poll_read(cx, out)
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.core()?.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.core()?.poll_write(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core()?.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Guard {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::trace!(%error, "shutting down a client's connection");
        }
    }
}

impl UniqueID for Guard {
    fn id(&self) -> UniqueIDType {
        self.core.as_ref().map_or(-1, |core| core.socket.as_raw_fd())
    }
}

impl Ssl for Guard {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.facts.ssl.clone()
    }
}

impl Peek for Guard {}

impl GetTimingDigest for Guard {
    /// Empty: nobody asks, and an empty list costs nothing.
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Guard {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.facts.proxy.clone()
    }
}

impl GetSocketDigest for Guard {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.facts.socket))
    }
}
