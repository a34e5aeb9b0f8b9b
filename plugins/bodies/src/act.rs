//! What a plugin for tests does: `phase` (as the contract names it) and `does` (one of the names in [`act`]) of its
//! configuration say it. In other phases it goes on. `what` is the text that some acts need.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_plugin_sdk::{Body, Failed, StreamAction, Streamed, config, log};

/// Calls in this instance.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// What an act comes to.
pub(crate) enum Done {
    Nothing,
    Answer,
    Refuse,
    Abort,
}

pub(crate) fn due(phase: &str) -> bool {
    config::get("phase").as_deref() == Some(phase)
}

pub(crate) fn streamed(phase: &str, body: Option<&Body>, header: impl FnOnce() -> Option<String>) -> Streamed {
    if !due(phase) {
        return Ok(StreamAction::Continue);
    }
    match act(body, header())? {
        Done::Nothing => Ok(StreamAction::Continue),
        Done::Abort | Done::Answer | Done::Refuse => Ok(StreamAction::Abort),
    }
}

/// Does what `does` says.
pub(crate) fn act(body: Option<&Body>, header: Option<String>) -> Result<Done, Failed> {
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let what = config::get("what").unwrap_or_default();
    match config::get("does").as_deref() {
        None | Some("nothing") => {}
        Some("answer") => return Ok(Done::Answer),
        Some("refuse") => return Ok(Done::Refuse),
        Some("abort") => return Ok(Done::Abort),
        Some("abort-on") if has(body, &what) => return Ok(Done::Abort),
        Some("abort-on") => {}
        Some("upper") => {
            if let Some(body) = body {
                body.replace(&body.bytes().to_ascii_uppercase());
            }
        }
        // A number and an end for each piece, so that a test sees how often it was called and in which instance.
        Some("number") => {
            if let Some(body) = body {
                let mut bytes = format!("[{call}:").into_bytes();
                bytes.extend_from_slice(&body.bytes());
                bytes.extend_from_slice(if body.is_last() { b"$]" } else { b"]" });
                body.replace(&bytes);
            }
        }
        Some("put") => {
            if let Some(body) = body {
                body.replace(what.as_bytes());
            }
        }
        Some("drop") => {
            if let Some(body) = body {
                body.replace(b"");
            }
        }
        Some("tell") => {
            if let Some(body) = body {
                body.replace(format!("{:?}", header).as_bytes());
            }
        }
        Some("trap") => panic!("told to trap"),
        Some("trap-late") if call > 1 => panic!("told to trap late"),
        Some("trap-late") => {}
        Some("error") => return Err("told to fail".into()),
        Some("loop") => loop {
            black_box(0);
        },
        Some("grow") => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(black_box(vec![1; 1 << 20]));
            }
        }
        Some("recurse") => {
            black_box(recurse(black_box(0)));
        }
        Some("call-storm") => loop {
            black_box(config::json());
        },
        Some("flood-log") => {
            for _ in 0..1000 {
                log::warn(&"flood ".repeat(100));
            }
        }
        Some("huge") => {
            if let Some(body) = body {
                body.replace(&vec![b'x'; 300 << 10]);
            }
        }
        // The largest that is allowed, in place of every piece.
        Some("large") => {
            if let Some(body) = body {
                body.replace(&vec![b'x'; 256 << 10]);
            }
        }
        other => return Err(format!("unknown act {other:?}").into()),
    }
    Ok(Done::Nothing)
}

fn has(body: Option<&Body>, what: &str) -> bool {
    body.is_some_and(|body| body.bytes().windows(what.len().max(1)).any(|window| window == what.as_bytes()))
}

#[expect(unconditional_recursion, reason = "that is its job")]
fn recurse(depth: u64) -> u64 {
    let frame = [depth; 16];
    black_box(&frame);
    recurse(depth + 1) + black_box(frame)[3]
}
