//! Turning a request away before there is one: the answer, the log line, and a close that lets the client read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use sluice_vocabulary::Refusal;
use sluice_vocabulary::clock::Random;
use sluice_vocabulary::request::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::breach::Breach;
use crate::guard::Core;
use crate::settings::Settings;

/// How long, and for how many bytes, a client that is still sending is listened to after our last word. A socket that is
/// closed with unread bytes resets the connection, and the reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// Bounds how many refusals are logged at level info.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    /// The second in the upper half, the number logged in it in the lower.
    window: AtomicU64,
    hidden: AtomicU64,
}

impl RefusalLog {
    /// Whether one more may be logged in this second; if so, how many were not since the last.
    fn admit(&self, second: u64, most: u32) -> Option<u64> {
        let admitted = self.window.try_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let (then, count) = (window >> 32, window & 0xffff_ffff);
            match then == second & 0xffff_ffff {
                true if count >= u64::from(most) => None,
                true => Some(window + 1),
                false if most == 0 => None,
                false => Some((second << 32) | 1),
            }
        });
        match admitted {
            Ok(_) => Some(self.hidden.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.hidden.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Says it: at level info while few do it, at level debug always.
    pub(crate) fn log(&self, connection: &Connection, breach: Breach, second: u64, settings: &Settings) {
        let (client, reason) = (connection.client, breach.reason().slug());
        match self.admit(second, settings.refusals_logged_per_second) {
            Some(hidden) => tracing::info!(
                client.addr = %client, connection = connection.id, reason, %breach, hidden,
                "request refused"
            ),
            None => tracing::debug!(
                client.addr = %client, connection = connection.id, reason, %breach,
                "request refused"
            ),
        }
    }
}

/// Answers for a breach and closes the connection, in a way that the client can read the answer.
pub(crate) async fn answer(core: &mut Core, breach: Breach, without_body: bool, random: &dyn Random) {
    let request_id = format!("{:032x}", random.bits128());
    let answer = compose(breach, &request_id, without_body);
    let sent = timeout(core.settings.write_timeout, core.socket.write_all(&answer)).await;
    if matches!(sent, Ok(Ok(()))) {
        close(core).await;
    }
}

fn compose(breach: Breach, request_id: &str, without_body: bool) -> Vec<u8> {
    let reason = breach.reason();
    let status = reason.status();
    let problem = Refusal::new(reason).problem(request_id);
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         cache-control: no-store\r\n\
         connection: close\r\n\
         x-request-id: {request_id}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        problem.len(),
    )
    .into_bytes();
    if breach == Breach::Connect {
        // RFC 9110 15.5.6 asks for the methods that are allowed.
        answer.extend_from_slice(b"allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    if !without_body {
        answer.extend_from_slice(&problem);
    }
    answer
}

/// Ends our side, then listens for a little while to what the client is still sending.
pub(crate) async fn close(core: &mut Core) {
    let shut = std::future::poll_fn(|cx| core.poll_shutdown(cx)).await;
    if shut.is_err() || core.ended {
        return;
    }
    let mut heard = BytesMut::with_capacity(4096);
    let drain = async {
        let mut total = 0;
        while total < LINGER_BYTES {
            heard.clear();
            match core.socket.read_buf(&mut heard).await {
                Ok(0) | Err(_) => return,
                Ok(count) => total += count,
            }
        }
    };
    // That it did not end in time is no news: the socket is closed either way.
    let _ = timeout(LINGER, drain).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_so_many_refusals_a_second_are_logged_and_the_rest_are_counted() {
        let log = RefusalLog::default();
        assert_eq!(
            [log.admit(7, 2), log.admit(7, 2), log.admit(7, 2), log.admit(7, 2)],
            [Some(0), Some(0), None, None]
        );
        assert_eq!(log.admit(8, 2), Some(2));
        assert_eq!(log.admit(9, 0), None);
    }

    #[test]
    fn an_answer_is_a_whole_response_with_a_problem() {
        let text = String::from_utf8(compose(Breach::HeaderSize, "r-1", false)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"));
        assert!(head.contains("connection: close"));
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(body.contains("urn:sluice:problem:header-too-large"));
        assert!(String::from_utf8(compose(Breach::HeaderSize, "r-1", true)).unwrap().ends_with("\r\n\r\n"));
    }
}
