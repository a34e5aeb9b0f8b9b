//! Write plugins for the Sluice gateway in Rust.
//!
//! A plugin is a type with one trait for each phase it wants to see, and one line that exports it:
//!
//! ```no_run
//! use sluice_plugin_sdk::{Action, Outcome, Request, RequestHeaders, config};
//!
//! struct Greeter;
//!
//! impl RequestHeaders for Greeter {
//!     fn on_request_headers(request: Request) -> Outcome {
//!         if request.header("x-blocked").as_deref() == Some("yes") {
//!             return Ok(Action::refuse("blocked by request"));
//!         }
//!         let name = config::get("name").unwrap_or_else(|| "nobody".into());
//!         request.set_header("x-greeting", &name)?;
//!         Ok(Action::Continue)
//!     }
//! }
//!
//! sluice_plugin_sdk::export!(Greeter: RequestHeaders);
//! ```
//!
//! The crate is a `cdylib` for `wasm32-unknown-unknown`, linked with `wasm-component-ld`: what cargo writes is the
//! component. There is no WASI, hence no files, threads, clock or environment: `std` is there, but those parts of it fail.
//!
//! What a phase changes takes effect only when it returns `Ok(Action::Continue)`. An `Err` is logged and fails the phase,
//! as a panic does; the operator's configuration says whether the request is then refused or goes on without the plugin.
//!
//! In reading order: what a phase decides ([`Action`]), what it sees and changes ([`Request`], [`SentRequest`],
//! [`Response`], [`Body`], [`Trailers`], [`Exchange`]), its configuration ([`config`], [`config_schema!`]), the log ([`log`]), the
//! phases and [`export!`]; then what an operator may grant: [`identity`], [`connection`], [`clock`], [`random`], [`metrics`],
//! [`tags`], [`routing`], [`key_value`], [`outbound`]. A plugin that uses one of these and was not granted it is refused when it is loaded. Memory is served by a small allocator of this crate's own; the feature `allocator`, on by default, turns it off.

mod action;
mod body;
pub mod clock;
pub mod config;
pub mod connection;
mod exchange;
#[cfg(any(test, all(target_arch = "wasm32", feature = "allocator")))]
mod heap;
pub mod identity;
pub mod key_value;
pub mod log;
mod message;
pub mod metrics;
pub mod outbound;
mod phase;
pub mod random;
pub mod routing;
pub mod tags;

pub use action::{Action, Answer, Refusal, StreamAction};
pub use body::{Body, Trailers};
#[doc(hidden)]
pub use config::bytes as __bytes;
pub use exchange::Exchange;
pub use message::{HeaderFault, Request, Response, SentRequest, SentResponse};
#[doc(hidden)]
pub use phase::run as __run;
pub use phase::{
    ExchangeEnd, Failed, Outcome, RequestBody, RequestChunk, RequestHeaders, ResponseBody, ResponseChunk,
    ResponseHeaders, ResponseTrailers, Streamed,
};

/// What the binding generator makes of the contract. For [`export!`] alone: it may change in any release.
#[doc(hidden)]
#[allow(missing_docs, reason = "generated from wit/, where it is documented")]
pub mod bindings {
    pub mod host {
        wit_bindgen::generate!({ path: "../../wit", world: "host" });
    }

    pub mod granted {
        wit_bindgen::generate!({ path: "../../wit", world: "granted" });
    }

    pub mod messages {
        wit_bindgen::generate!({
            path: "../../wit",
            world: "messages",
            with: { "sluice:plugin/fields@1.1.0": super::host::sluice::plugin::fields },
        });
    }

    /// One module for each phase: its world, and the macro that exports it.
    macro_rules! phases {
        ($($module:ident $world:tt $export:tt $path:tt),+ $(,)?) => {
            $(pub mod $module {
                wit_bindgen::generate!({
                    path: "../../wit",
                    world: $world,
                    pub_export_macro: true,
                    export_macro_name: $export,
                    default_bindings_module: $path,
                    with: {
                        "sluice:plugin/actions@1.1.0": super::host::sluice::plugin::actions,
                        "sluice:plugin/fields@1.1.0": super::host::sluice::plugin::fields,
                        "sluice:plugin/configuration@1.1.0": super::host::sluice::plugin::configuration,
                        "sluice:plugin/log@1.1.0": super::host::sluice::plugin::log,
                        "sluice:plugin/request@1.1.0": super::host::sluice::plugin::request,
                        "sluice:plugin/response@1.1.0": super::host::sluice::plugin::response,
                        "sluice:plugin/streams@1.1.0": super::host::sluice::plugin::streams,
                    },
                });
            })+
        };
    }

    phases!(
        on_request "on-request" "export_on_request" "sluice_plugin_sdk::bindings::on_request",
        on_request_body "on-request-body" "export_on_request_body" "sluice_plugin_sdk::bindings::on_request_body",
        on_request_chunk "on-request-chunk" "export_on_request_chunk" "sluice_plugin_sdk::bindings::on_request_chunk",
        on_response "on-response" "export_on_response" "sluice_plugin_sdk::bindings::on_response",
        on_response_body "on-response-body" "export_on_response_body" "sluice_plugin_sdk::bindings::on_response_body",
        on_response_chunk "on-response-chunk" "export_on_response_chunk" "sluice_plugin_sdk::bindings::on_response_chunk",
        on_response_trailers "on-response-trailers" "export_on_response_trailers"
            "sluice_plugin_sdk::bindings::on_response_trailers",
        on_exchange_end "on-exchange-end" "export_on_exchange_end" "sluice_plugin_sdk::bindings::on_exchange_end",
    );
}
