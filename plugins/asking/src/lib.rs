//! A plugin that asks other services what its configuration names: test input for outbound requests.
//!
//! Configuration: `ask`, a list of `METHOD URL`, in the phase `phase` (by default `request-headers`). What comes of the Nth
//! is set as `x-asked-N` where that phase has a header to change: the status and the body's length, or the fault's name. All
//! of them have the fields of the list `fields`, each `NAME: VALUE` as it stands, `body` bytes of a body, and `timeout` in
//! milliseconds. Between two of them it runs for `turns` turns of a loop, and with `then: loop` for ever after the last.
//!
//! With `decide: URL` it asks that of each request, telling `x-path`, `x-subject` and nothing else, and refuses the request
//! unless the answer is one of success; without an answer the phase fails.

use std::time::Duration;

use sluice_plugin_sdk::{
    Action, Body, Exchange, ExchangeEnd, Failed, Outcome, Request, RequestChunk, RequestHeaders, Response,
    ResponseBody, ResponseChunk, ResponseHeaders, ResponseTrailers, SentRequest, SentResponse, StreamAction, Streamed,
    Trailers, config, export, outbound,
};

struct Asking;

impl RequestHeaders for Asking {
    fn on_request_headers(request: Request) -> Outcome {
        if let Some(url) = config::get("decide") {
            return decide(&request, &url);
        }
        for (index, said) in asked_in("request-headers").enumerate() {
            request.set_header(&format!("x-asked-{index}"), &said)?;
        }
        Ok(Action::Continue)
    }
}

impl RequestChunk for Asking {
    fn on_request_chunk(_: SentRequest, piece: Body) -> Streamed {
        for said in asked_in("request-chunk") {
            piece.replace(said.as_bytes());
        }
        Ok(StreamAction::Continue)
    }
}

impl ResponseHeaders for Asking {
    fn on_response_headers(_: SentRequest, response: Response) -> Outcome {
        for (index, said) in asked_in("response-headers").enumerate() {
            response.set_header(&format!("x-asked-{index}"), &said)?;
        }
        Ok(Action::Continue)
    }
}

impl ResponseBody for Asking {
    fn on_response_body(_: SentRequest, _: SentResponse, _: Body) -> Streamed {
        asked_in("response-body").for_each(drop);
        Ok(StreamAction::Continue)
    }
}

impl ResponseChunk for Asking {
    fn on_response_chunk(_: SentRequest, _: SentResponse, _: Body) -> Streamed {
        asked_in("response-chunk").for_each(drop);
        Ok(StreamAction::Continue)
    }
}

impl ResponseTrailers for Asking {
    fn on_response_trailers(_: SentRequest, _: SentResponse, _: Trailers) -> Streamed {
        asked_in("response-trailers").for_each(drop);
        Ok(StreamAction::Continue)
    }
}

impl ExchangeEnd for Asking {
    fn on_exchange_end(_: SentRequest, _: Exchange) -> Result<(), Failed> {
        asked_in("exchange-end").for_each(drop);
        Ok(())
    }
}

fn decide(request: &Request, url: &str) -> Outcome {
    let question = outbound::Request::get(url)
        .header("x-path", request.path())
        .header("x-subject", request.header("x-subject").unwrap_or_default());
    if outbound::send(&question)?.is_success() {
        Ok(Action::Continue)
    } else {
        Ok(Action::refuse("the decision service said no"))
    }
}

/// What comes of each question, if they are for this phase.
fn asked_in(phase: &str) -> impl Iterator<Item = String> {
    let is_here = config::get("phase").as_deref().unwrap_or("request-headers") == phase;
    let mut questions = list("ask").filter(move |_| is_here);
    std::iter::from_fn(move || match questions.next() {
        Some(question) => Some(said_to(&question)),
        None => {
            if is_here && config::get("then").as_deref() == Some("loop") {
                turn(u64::MAX);
            }
            None
        }
    })
}

fn said_to(question: &str) -> String {
    let (method, url) = question.split_once(' ').unwrap_or((question, ""));
    let mut request = outbound::Request::new(method, url).body(vec![b'x'; number("body").unwrap_or(0) as usize]);
    for field in list("fields") {
        let (name, value) = field.split_once(": ").unwrap_or((&field, ""));
        request = request.header(name, value);
    }
    if let Some(millis) = number("timeout") {
        request = request.timeout(Duration::from_millis(millis));
    }
    let answered = outbound::send(&request);
    turn(number("turns").unwrap_or(0));
    match answered {
        Ok(answer) => format!("{} {}", answer.status, answer.body.len()),
        Err(fault) => fault.name().to_owned(),
    }
}

fn turn(turns: u64) {
    for turn in 0..turns {
        std::hint::black_box(turn);
    }
}

fn number(key: &str) -> Option<u64> {
    config::get(key)?.parse().ok()
}

fn list(key: &str) -> impl Iterator<Item = String> {
    (0..).map_while(move |index| config::get(&format!("/{key}/{index}")))
}

export!(
    Asking: RequestHeaders,
    RequestChunk,
    ResponseHeaders,
    ResponseBody,
    ResponseChunk,
    ResponseTrailers,
    ExchangeEnd
);
