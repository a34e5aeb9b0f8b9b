//! The rounds of an HTTP/1 connection: a head read and judged, a request handed to Pingora, and again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::Cache;
use bytes::{Buf, BytesMut};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp};
use pingora_core::protocols::http::ServerSession;
use sluice_vocabulary::request::Connection;
use tokio::time::Instant;

use crate::breach::Breach;
use crate::connection::Link;
use crate::guard::{Core, Facts, Guard, Home};
use crate::head::{self, AbsoluteTarget, Framing, Scanner};
use crate::settings::Settings;
use crate::timer::about_now;
use crate::{h2, refuse};

/// Empty lines before a request line that are forgiven (RFC 9112 2.2): old clients end a POST with one too many.
const EMPTY_LINES: usize = 2;

/// Serves requests until the connection ends.
pub(crate) async fn serve<A>(core: Box<Core>, facts: Arc<Facts>, connection: &Connection, http2: bool, link: &Link<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let home = Home::default();
    let mut guard = Guard::new(core, Arc::clone(&facts), Arc::clone(&home));
    let mut settings = Cache::new(Arc::clone(&link.shared.settings));
    let mut stopping = pin!(stopping(link.shutdown.clone()));
    let mut persistent: Option<HttpPersistentSettings> = None;
    let mut first = true;
    loop {
        let Some(core) = guard.core_mut() else { return };
        renew(core, settings.load());
        let mut wait = NextHead::new(first, first && http2);
        let end = match poll_fn(|cx| wait.poll(core, stopping.as_mut(), cx)).await {
            Next::Head(end) => end,
            Next::Closed => return,
            Next::Http2 => return h2::serve(guard, connection, link).await,
            Next::Breach(breach) => return refuse(core, breach, b"", connection, link).await,
        };
        // It may have been a long wait: the request is judged by what is in force now.
        renew(core, settings.load());
        // Whole, where nothing was sent ahead: splitting would make the memory a shared one.
        let bytes = match end == core.received.len() {
            true => std::mem::take(&mut core.received),
            false => core.received.split_to(end),
        };
        let head = match head::parse(&bytes, core.settings.head) {
            Ok(head) if too_long(head.framing, core) => {
                return refuse(core, Breach::BodySize, &bytes, connection, link).await;
            }
            Ok(head) => head,
            Err(breach) => return refuse(core, breach, &bytes, connection, link).await,
        };
        core.begin_request(&head);
        let bytes = match &head.absolute {
            Some(absolute) => in_origin_form(&bytes, absolute),
            None => bytes,
        };

        let mut session = ServerSession::new_http1(guard);
        match persistent.take() {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive(Some(0)),
        }
        // The guard has the deadlines; Pingora's would arm a timer for every read of every body.
        session.set_read_timeout(None);
        session.set_pipelined_prefix(bytes);
        let reused = link.app.process_new_http(session, &link.shutdown).await;

        let Some((stream, carried)) = reused.map(|reused| reused.consume()) else {
            let left_behind = home.lock().take();
            if let Some(mut core) = left_behind {
                finish(&mut core, connection, link).await;
            }
            return;
        };
        // It is the guard that was handed in; nothing else makes streams here.
        let Ok(same) = stream.into_any().downcast::<Guard>() else { return };
        guard = same;
        persistent = carried;
        first = false;
        let Some(core) = guard.core_mut() else { return };
        if head.close || !core.is_between_requests() {
            return finish(core, connection, link).await;
        }
        core.slim();
    }
}

fn renew(core: &mut Core, now: &Arc<Settings>) {
    if !Arc::ptr_eq(now, &core.settings) {
        core.settings = Arc::clone(now);
    }
}

/// Returns when the process stops taking requests.
async fn stopping(mut shutdown: tokio::sync::watch::Receiver<bool>) {
    // An error means that the other end is gone, which is the signal too.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn too_long(framing: Framing, core: &Core) -> bool {
    matches!(framing, Framing::Length(length) if length > core.settings.body.size)
}

/// What came of waiting for a head.
enum Next {
    /// It is whole, and so long.
    Head(usize),
    /// The connection begins with HTTP/2's preface.
    Http2,
    /// The client left, was idle for too long, or the process stops: nobody to answer.
    Closed,
    Breach(Breach),
}

/// The wait for one head.
struct NextHead {
    scanner: Scanner,
    first: bool,
    http2: bool,
    empty_lines: usize,
    /// When the wait began, and when the head's first bytes were there. Read only when there is something to wait for:
    /// a request that arrives whole costs no look at the clock.
    idle_since: Option<Instant>,
    begun: Option<Instant>,
}

impl NextHead {
    fn new(first: bool, http2: bool) -> Self {
        Self { scanner: Scanner::default(), first, http2, empty_lines: 0, idle_since: None, begun: None }
    }

    fn poll(&mut self, core: &mut Core, stopping: Pin<&mut impl Future>, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(next) = self.look(core) {
                return Poll::Ready(next);
            }
            match core.poll_fill(cx) {
                Poll::Pending => return self.poll_deadline(core, stopping, cx),
                Poll::Ready(Ok(0)) if !core.received.is_empty() => {
                    return Poll::Ready(Next::Breach(Breach::HeaderTruncated));
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Looks at what is there.
    fn look(&mut self, core: &mut Core) -> Option<Next> {
        while self.empty_lines < EMPTY_LINES && core.received.starts_with(b"\r\n") {
            core.received.advance(2);
            self.empty_lines += 1;
        }
        // A lone CR may be half an empty line.
        if core.received.is_empty() || (&core.received[..] == b"\r" && self.empty_lines < EMPTY_LINES) {
            return None;
        }
        if self.http2 {
            let common = core.received.len().min(h2::PREFACE.len());
            if core.received[..common] != h2::PREFACE[..common] {
                self.http2 = false;
            } else if common == h2::PREFACE.len() {
                return Some(Next::Http2);
            } else if common > 2 {
                // No method begins like this but PRI, which is reserved (RFC 9113 11.6): wait for the rest.
                return None;
            }
        }
        match self.scanner.find_end(&core.received, core.settings.head) {
            Ok(end) => end.map(Next::Head),
            Err(breach) => Some(Next::Breach(breach)),
        }
    }

    fn poll_deadline(&mut self, core: &mut Core, stopping: Pin<&mut impl Future>, cx: &mut Context<'_>) -> Poll<Next> {
        let nothing_yet = core.received.is_empty();
        if nothing_yet && stopping.poll(cx).is_ready() {
            return Poll::Ready(Next::Closed);
        }
        let idle_since = *self.idle_since.get_or_insert_with(about_now);
        let deadline = if self.first {
            idle_since + core.settings.header_timeout
        } else if nothing_yet {
            idle_since + core.settings.idle_timeout
        } else {
            *self.begun.get_or_insert_with(Instant::now) + core.settings.header_timeout
        };
        core.timer.poll(deadline, cx).map(|()| match nothing_yet {
            true => Next::Closed,
            false => Next::Breach(Breach::HeaderTimeout),
        })
    }
}

/// The head with its target in origin form and the target's authority as its Host, whatever Host it had (RFC 9112
/// 3.2.2): what stands behind the gateway then sees one host, said once.
fn in_origin_form(head: &[u8], absolute: &AbsoluteTarget) -> BytesMut {
    let authority = &head[absolute.authority.clone()];
    let rest = &head[absolute.rest.clone()];
    let mut new = BytesMut::with_capacity(head.len() + authority.len() + 16);
    new.extend_from_slice(&head[..absolute.target.start]);
    if !rest.starts_with(b"/") {
        new.extend_from_slice(b"/");
    }
    new.extend_from_slice(rest);
    match &absolute.host {
        Some(host) => {
            new.extend_from_slice(&head[absolute.target.end..host.start]);
            new.extend_from_slice(authority);
            new.extend_from_slice(&head[host.end..]);
        }
        None => {
            // Before the empty line.
            new.extend_from_slice(&head[absolute.target.end..head.len() - 2]);
            new.extend_from_slice(b"host: ");
            new.extend_from_slice(authority);
            new.extend_from_slice(b"\r\n\r\n");
        }
    }
    new
}

/// Counts, says and answers a breach; ends the connection. `head` tells whether the answer may have a body.
async fn refuse<A>(core: &mut Core, breach: Breach, head: &[u8], connection: &Connection, link: &Link<A>) {
    note(breach, connection, core, link);
    let without_body = head.starts_with(b"HEAD ");
    refuse::answer(core, breach, without_body, &*link.shared.random).await;
}

fn note<A>(breach: Breach, connection: &Connection, core: &Core, link: &Link<A>) {
    let shared = &link.shared;
    shared.metrics.request_refused(breach);
    shared.refusals.log(connection, breach, shared.clock.unix_seconds(), &core.settings);
}

/// Ends the connection after its last request, so that the last answer reaches the client.
async fn finish<A>(core: &mut Core, connection: &Connection, link: &Link<A>) {
    if core.write_stalled {
        link.shared.metrics.write_stalls.inc();
        tracing::debug!(client.addr = %connection.client, connection = connection.id, "client takes nothing: cut");
        return;
    }
    if let Some(breach) = core.unanswered_breach() {
        return refuse(core, breach, b"", connection, link).await;
    }
    if let Some(breach) = core.breach() {
        note(breach, connection, core, link);
    }
    if core.has_unread() {
        refuse::close(core).await;
    } else {
        // A failure means that the client has left.
        let _ = poll_fn(|cx| core.poll_shutdown(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::head::HeadLimits;

    #[test]
    fn an_absolute_target_becomes_an_origin_target_and_its_host() {
        let limits = HeadLimits { bytes: 1024, fields: 10 };
        for (head, expected) in [
            (
                "GET http://a.example:80/p?q HTTP/1.1\r\nX: y\r\nHost: other\r\nZ: z\r\n\r\n",
                "GET /p?q HTTP/1.1\r\nX: y\r\nHost: a.example:80\r\nZ: z\r\n\r\n",
            ),
            ("GET HTTPS://a?q HTTP/1.1\r\nHost:b\r\n\r\n", "GET /?q HTTP/1.1\r\nHost:a\r\n\r\n"),
            ("GET http://a HTTP/1.0\r\nX: y\r\n\r\n", "GET / HTTP/1.0\r\nX: y\r\nhost: a\r\n\r\n"),
        ] {
            let absolute = head::parse(head.as_bytes(), limits).unwrap().absolute.unwrap();
            let new = in_origin_form(head.as_bytes(), &absolute);
            assert_eq!(std::str::from_utf8(&new).unwrap(), expected);
            assert!(head::parse(&new, limits).unwrap().absolute.is_none());
        }
    }
}
