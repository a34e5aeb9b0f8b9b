//! A plugin that does to pieces of bodies and to trailers what its configuration names: test input for the phases that see a
//! message under way. See [`act`].

#[path = "../../bodies/src/act.rs"]
mod act;

use sluice_plugin_sdk::{
    Body, RequestChunk, ResponseChunk, ResponseTrailers, SentRequest, SentResponse, StreamAction, Streamed, Trailers,
    config, export,
};

use act::{due, streamed};

struct Chunks;

impl RequestChunk for Chunks {
    fn on_request_chunk(request: SentRequest, piece: Body) -> Streamed {
        streamed("request-chunk", Some(&piece), || request.header("x-before"))
    }
}

impl ResponseChunk for Chunks {
    fn on_response_chunk(_: SentRequest, response: SentResponse, piece: Body) -> Streamed {
        streamed("response-chunk", Some(&piece), || Some(response.status().to_string()))
    }
}

impl ResponseTrailers for Chunks {
    fn on_response_trailers(_: SentRequest, _: SentResponse, trailers: Trailers) -> Streamed {
        if due("response-trailers") && config::get("does").as_deref() == Some("mark") {
            let known = trailers.get("grpc-status").unwrap_or_else(|| "none".to_owned());
            trailers.set("x-seen", &known)?;
            trailers.remove("x-secret")?;
            return Ok(StreamAction::Continue);
        }
        streamed("response-trailers", None, || None)
    }
}

export!(Chunks: RequestChunk, ResponseChunk, ResponseTrailers);
