//! A plugin that does to whole bodies what its configuration names: test input for the phases that see them. See [`act`].

mod act;

use sluice_plugin_sdk::{
    Action, Answer, Body, Exchange, ExchangeEnd, Failed, Outcome, Request, RequestBody, ResponseBody, SentRequest,
    SentResponse, Streamed, export, log,
};

use act::{Done, act, due, streamed};

struct Bodies;

impl RequestBody for Bodies {
    fn on_request_body(request: Request, body: Body) -> Outcome {
        if !due("request-body") {
            return Ok(Action::Continue);
        }
        let header = request.header("x-before");
        match act(Some(&body), header)? {
            Done::Nothing => {
                request.set_header("x-body-size", &body.size().to_string())?;
                Ok(Action::Continue)
            }
            Done::Answer => Ok(Answer::new(200).body(body.bytes()).into()),
            Done::Refuse | Done::Abort => Ok(Action::refuse("not with this body")),
        }
    }
}

impl ResponseBody for Bodies {
    fn on_response_body(_: SentRequest, response: SentResponse, body: Body) -> Streamed {
        streamed("response-body", Some(&body), || Some(response.status().to_string()))
    }
}

impl ExchangeEnd for Bodies {
    fn on_exchange_end(request: SentRequest, exchange: Exchange) -> Result<(), Failed> {
        if !due("exchange-end") {
            return Ok(());
        }
        log::info(&format!(
            "{} ended: status {:?}, {} bytes in, {} out, upstream {:?}, refused {:?}",
            request.path(),
            exchange.status(),
            exchange.request_bytes(),
            exchange.response_bytes(),
            exchange.upstream(),
            exchange.refused()
        ));
        act(None, None).map(|_| ())
    }
}

export!(Bodies: RequestBody, ResponseBody, ExchangeEnd);
