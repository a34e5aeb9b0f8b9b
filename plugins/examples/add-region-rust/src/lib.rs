//! Adds the gateway's region to requests and responses, and turns away what was marked as blocked.
//!
//! Configuration: `region` (the value of the `x-region` header, `unknown` if absent) and `block_header` (the request
//! header that, with the value `yes`, has the request refused; `x-blocked` if absent).

use sluice_plugin_sdk::{
    Action, Outcome, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, config, config_schema, export,
};

struct AddRegion;

impl RequestHeaders for AddRegion {
    fn on_request_headers(request: Request) -> Outcome {
        let block_header = config::get("block_header");
        let block_header = block_header.as_deref().unwrap_or("x-blocked");
        // Every value: a client that sends the field twice must not get through with the first.
        if request.header_values(block_header).iter().any(|value| value == "yes") {
            return Ok(Action::refuse("this request is marked as blocked"));
        }
        request.set_header("x-region", &region())?;
        Ok(Action::Continue)
    }
}

impl ResponseHeaders for AddRegion {
    fn on_response_headers(_: SentRequest, response: Response) -> Outcome {
        response.set_header("x-region", &region())?;
        Ok(Action::Continue)
    }
}

fn region() -> String {
    config::get("region").unwrap_or_else(|| "unknown".into())
}

export!(AddRegion: RequestHeaders, ResponseHeaders);
config_schema!(include_str!("schema.json"));
