//! The phases, and how a type that implements them becomes a component.

use crate::{Action, Request, Response, SentRequest, log};

/// What a phase returns. An error is logged and fails the phase, as a panic does: nothing of what it changed is applied.
pub type Outcome = Result<Action, Box<dyn std::error::Error>>;

/// The phase in which the request's header is known, the client is verified, and nothing was sent upstream yet.
pub trait RequestHeaders {
    /// Called once per request.
    ///
    /// # Errors
    /// Whatever keeps the plugin from deciding.
    fn on_request_headers(request: Request) -> Outcome;
}

/// The phase in which the upstream's response header is known and nothing was sent to the client yet.
pub trait ResponseHeaders {
    /// Called once per response that comes from an upstream.
    ///
    /// # Errors
    /// Whatever keeps the plugin from deciding.
    fn on_response_headers(request: SentRequest, response: Response) -> Outcome;
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
        const _: () = {
            struct Exported;
            impl $crate::bindings::on_request::exports::sluice::plugin::request_headers::Guest for Exported {
                fn on_request_headers() -> $crate::Action {
                    $crate::__run_request_headers::<$plugin>()
                }
            }
    $crate::bindings::on_request::export_on_request!(Exported with_types_in $crate::bindings::on_request);
        };
    };
    (ResponseHeaders, $plugin:ty) => {
        const _: () = {
            struct Exported;
            impl $crate::bindings::on_response::exports::sluice::plugin::response_headers::Guest for Exported {
                fn on_response_headers() -> $crate::Action {
                    $crate::__run_response_headers::<$plugin>()
                }
            }
    $crate::bindings::on_response::export_on_response!(Exported with_types_in $crate::bindings::on_response);
        };
    };
}

/// Runs the request phase of `P`.
#[doc(hidden)]
pub fn run_request_headers<P: RequestHeaders>() -> Action {
    say_panics();
    decided(P::on_request_headers(Request::current()))
}

/// Runs the response phase of `P`.
#[doc(hidden)]
pub fn run_response_headers<P: ResponseHeaders>() -> Action {
    say_panics();
    decided(P::on_response_headers(SentRequest::current(), Response::current()))
}

/// A panic says where and why in the gateway's log before it becomes a trap.
fn say_panics() {
    std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
}

fn decided(outcome: Outcome) -> Action {
    match outcome {
        Ok(action) => action,
        Err(error) => {
            log::error(&error.to_string());
            // Not a panic: the hook would say it a second time.
            std::process::abort()
        }
    }
}
