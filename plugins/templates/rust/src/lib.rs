//! Greets: sets `x-greeting` on requests and responses.
//!
//! Configuration: `greeting`, the value of the field (`hello` if absent).

use sluice_plugin_sdk::{
    Action, Outcome, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, config, config_schema, export,
};

config_schema!(include_str!("schema.json"));

struct Plugin;

impl RequestHeaders for Plugin {
    fn on_request_headers(request: Request) -> Outcome {
        request.set_header("x-greeting", &greeting())?;
        Ok(Action::Continue)
    }
}

impl ResponseHeaders for Plugin {
    fn on_response_headers(_: SentRequest, response: Response) -> Outcome {
        response.set_header("x-greeting", &greeting())?;
        Ok(Action::Continue)
    }
}

fn greeting() -> String {
    config::get("greeting").unwrap_or_else(|| "hello".to_owned())
}

export!(Plugin: RequestHeaders, ResponseHeaders);
