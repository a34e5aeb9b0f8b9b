//! The phases, and how a type that implements them becomes a component.

use crate::{Action, Body, Exchange, Request, Response, SentRequest, SentResponse, StreamAction, Trailers, log};

/// What keeps a plugin from doing its job. It is logged and fails the phase, as a panic does: nothing of what the phase
/// changed is applied.
pub type Failed = Box<dyn std::error::Error>;

/// What a phase returns that sees a message before it is sent.
pub type Outcome = Result<Action, Failed>;

/// What a phase returns that sees a message which is under way.
pub type Streamed = Result<StreamAction, Failed>;

/// The phase in which the request's header is known, the client is verified, and nothing was sent upstream yet.
pub trait RequestHeaders {
    /// Called once per request.
    ///
    /// # Errors
    /// Whatever keeps the plugin from deciding.
    fn on_request_headers(request: Request) -> Outcome;
}

/// The phase in which the whole body of the request is known, at most 64 KiB of it, and nothing was sent upstream yet.
pub trait RequestBody {
    /// Called once per request, also for an empty body.
    ///
    /// # Errors
    /// Whatever keeps the plugin from deciding.
    fn on_request_body(request: Request, body: Body) -> Outcome;
}

/// The phase in which a piece of the request's body goes by.
pub trait RequestChunk {
    /// Called for each piece and for the end, in one instance.
    ///
    /// # Errors
    /// Whatever keeps the plugin from doing its job: the exchange ends.
    fn on_request_chunk(request: SentRequest, piece: Body) -> Streamed;
}

/// The phase in which the upstream's response header is known and nothing was sent to the client yet.
pub trait ResponseHeaders {
    /// Called once per response that comes from an upstream.
    ///
    /// # Errors
    /// Whatever keeps the plugin from deciding.
    fn on_response_headers(request: SentRequest, response: Response) -> Outcome;
}

/// The phase in which the whole body of the response is known, at most 64 KiB of it. Its header is on its way.
pub trait ResponseBody {
    /// Called once per response that has a body.
    ///
    /// # Errors
    /// Whatever keeps the plugin from doing its job: the exchange ends.
    fn on_response_body(request: SentRequest, response: SentResponse, body: Body) -> Streamed;
}

/// The phase in which a piece of the response's body goes by.
pub trait ResponseChunk {
    /// Called for each piece and for the end, in one instance. A call has one to two milliseconds.
    ///
    /// # Errors
    /// Whatever keeps the plugin from doing its job: the exchange ends.
    fn on_response_chunk(request: SentRequest, response: SentResponse, piece: Body) -> Streamed;
}

/// The phase in which the trailers of a response are known: from upstreams that speak HTTP/2.
pub trait ResponseTrailers {
    /// Called once per response that has trailers.
    ///
    /// # Errors
    /// Whatever keeps the plugin from doing its job: the exchange ends.
    fn on_response_trailers(request: SentRequest, response: SentResponse, trailers: Trailers) -> Streamed;
}

/// The phase after everything else. Nothing waits for it.
pub trait ExchangeEnd {
    /// Called once per request that passed this plugin, whatever became of it.
    ///
    /// # Errors
    /// Whatever keeps the plugin from doing its job: it is counted.
    fn on_exchange_end(request: SentRequest, exchange: Exchange) -> Result<(), Failed>;
}

/// Exports a type as a plugin, with the phases it implements: `export!(MyPlugin: RequestHeaders, ResponseHeaders);`
///
/// Use it once in a crate. Phases that are not named cost no call.
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($phase:ident),+ $(,)?) => {
        $( $crate::__export_phase!($phase, $plugin); )+
    };
}

/// One phase of [`export!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __export_phase {
    (RequestHeaders, $plugin:ty) => {
        $crate::__export_function!(
            on_request,
            request_headers,
            on_request_headers,
            export_on_request,
            $crate::Action,
            $crate::__run::request_headers::<$plugin>
        );
    };
    (RequestBody, $plugin:ty) => {
        $crate::__export_function!(
            on_request_body,
            request_body,
            on_request_body,
            export_on_request_body,
            $crate::Action,
            $crate::__run::request_body::<$plugin>
        );
    };
    (RequestChunk, $plugin:ty) => {
        $crate::__export_function!(
            on_request_chunk,
            request_chunk,
            on_request_chunk,
            export_on_request_chunk,
            $crate::StreamAction,
            $crate::__run::request_chunk::<$plugin>
        );
    };
    (ResponseHeaders, $plugin:ty) => {
        $crate::__export_function!(
            on_response,
            response_headers,
            on_response_headers,
            export_on_response,
            $crate::Action,
            $crate::__run::response_headers::<$plugin>
        );
    };
    (ResponseBody, $plugin:ty) => {
        $crate::__export_function!(
            on_response_body,
            response_body,
            on_response_body,
            export_on_response_body,
            $crate::StreamAction,
            $crate::__run::response_body::<$plugin>
        );
    };
    (ResponseChunk, $plugin:ty) => {
        $crate::__export_function!(
            on_response_chunk,
            response_chunk,
            on_response_chunk,
            export_on_response_chunk,
            $crate::StreamAction,
            $crate::__run::response_chunk::<$plugin>
        );
    };
    (ResponseTrailers, $plugin:ty) => {
        $crate::__export_function!(
            on_response_trailers,
            response_trailers,
            on_response_trailers,
            export_on_response_trailers,
            $crate::StreamAction,
            $crate::__run::response_trailers::<$plugin>
        );
    };
    (ExchangeEnd, $plugin:ty) => {
        $crate::__export_function!(
            on_exchange_end,
            exchange_end,
            on_exchange_end,
            export_on_exchange_end,
            (),
            $crate::__run::exchange_end::<$plugin>
        );
    };
}

/// The function of one phase, exported.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_function {
    ($module:ident, $interface:ident, $function:ident, $export:ident, $returns:ty, $run:expr) => {
        const _: () = {
            struct Exported;
            impl $crate::bindings::$module::exports::sluice::plugin::$interface::Guest for Exported {
                fn $function() -> $returns {
                    $run()
                }
            }
    $crate::bindings::$module::$export!(Exported with_types_in $crate::bindings::$module);
        };
    };
}

/// Runs one phase of `P`.
#[doc(hidden)]
pub mod run {
    use super::*;

    pub fn request_headers<P: RequestHeaders>() -> Action {
        said(|| P::on_request_headers(Request::current()))
    }

    pub fn request_body<P: RequestBody>() -> Action {
        said(|| P::on_request_body(Request::current(), Body::current()))
    }

    pub fn request_chunk<P: RequestChunk>() -> StreamAction {
        said(|| P::on_request_chunk(SentRequest::current(), Body::current()))
    }

    pub fn response_headers<P: ResponseHeaders>() -> Action {
        said(|| P::on_response_headers(SentRequest::current(), Response::current()))
    }

    pub fn response_body<P: ResponseBody>() -> StreamAction {
        said(|| P::on_response_body(SentRequest::current(), SentResponse::current(), Body::current()))
    }

    pub fn response_chunk<P: ResponseChunk>() -> StreamAction {
        said(|| P::on_response_chunk(SentRequest::current(), SentResponse::current(), Body::current()))
    }

    pub fn response_trailers<P: ResponseTrailers>() -> StreamAction {
        said(|| P::on_response_trailers(SentRequest::current(), SentResponse::current(), Trailers::current()))
    }

    pub fn exchange_end<P: ExchangeEnd>() {
        said(|| P::on_exchange_end(SentRequest::current(), Exchange::current()))
    }
}

/// Runs a phase. A panic says where and why in the gateway's log before it becomes a trap, and so does an error.
fn said<T>(phase: impl FnOnce() -> Result<T, Failed>) -> T {
    std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
    match phase() {
        Ok(decided) => decided,
        Err(error) => {
            log::error(&error.to_string());
            // Not a panic: the hook would say it a second time.
            std::process::abort()
        }
    }
}
