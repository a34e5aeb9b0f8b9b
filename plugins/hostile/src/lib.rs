//! A plugin that misbehaves in whatever way its configuration names: test input for the sandbox.
//!
//! Configuration: `does` (one of the names in [`misbehave`]), `phase` (`request` or `response`; both if absent),
//! `when_header` (only for requests that carry this header; always if absent). Before it misbehaves it sets
//! `x-hostile: was-here`, so that a test can see whether changes of a failed phase were applied.

use std::hint::black_box;

use sluice_plugin_sdk::{
    Action, Answer, Outcome, Refusal, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, config, export,
    log,
};

struct Hostile;

impl RequestHeaders for Hostile {
    fn on_request_headers(request: Request) -> Outcome {
        if !due("request", |name| request.header(name).is_some()) {
            return Ok(Action::Continue);
        }
        request.set_header("x-hostile", "was-here")?;
        misbehave(&|name, value| request.append_header(name, value))
    }
}

impl ResponseHeaders for Hostile {
    fn on_response_headers(request: SentRequest, response: Response) -> Outcome {
        if !due("response", |name| request.header(name).is_some()) {
            return Ok(Action::Continue);
        }
        response.set_header("x-hostile", "was-here")?;
        misbehave(&|name, value| response.append_header(name, value))
    }
}

fn due(phase: &str, carries: impl Fn(&str) -> bool) -> bool {
    let in_this_phase = config::get("phase").is_none_or(|wanted| wanted == phase);
    in_this_phase && config::get("when_header").is_none_or(|name| carries(&name))
}

type Append<'a> = &'a dyn Fn(&str, &str) -> Result<(), sluice_plugin_sdk::HeaderFault>;

/// Does what `does` says. What ought to be stopped and is not ends in an answer with status 299, so that a test sees it.
fn misbehave(append: Append<'_>) -> Outcome {
    match config::get("does").as_deref() {
        Some("trap") => panic!("told to trap"),
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
        Some("flood-headers") => {
            for n in 0..100_000 {
                append("x-flood", &n.to_string())?;
            }
        }
        Some("long-header") => append("x-long", &"x".repeat(1 << 20))?,
        Some("split-header") => append("x-split", "a\r\nx-injected: yes")?,
        Some("framing-header") => append("transfer-encoding", "chunked")?,
        Some("flood-log") => {
            for _ in 0..100_000 {
                log::warn(&"flood ".repeat(1000));
            }
        }
        Some("call-storm") => loop {
            black_box(config::json());
        },
        Some("huge-answer") => return Ok(Answer::new(200).body(vec![b'x'; 8 << 20]).into()),
        Some("odd-status") => return Ok(Answer::new(42).into()),
        Some("split-answer") => return Ok(Answer::new(200).header("x-split", "a\r\nx-injected: yes").into()),
        Some("long-refusal") => {
            return Ok(Refusal::new().detail("x\n".repeat(1 << 12)).reason("y".repeat(1 << 13)).into());
        }
        other => return Err(format!("unknown misbehaviour {other:?}").into()),
    }
    Ok(Answer::new(299).into())
}

#[expect(unconditional_recursion, reason = "that is its job")]
fn recurse(depth: u64) -> u64 {
    let frame = [depth; 16];
    black_box(&frame);
    recurse(depth + 1) + black_box(frame)[3]
}

export!(Hostile: RequestHeaders, ResponseHeaders);
