//! A fluent world for tests: everything around a gateway, on real sockets.
//!
//! A test names its surroundings, starts the real binary between them and speaks to it as a client would:
//!
//! ```no_run
//! # async fn example() {
//! use sluice_testkit::{Reply, client, gateway, issuer, origin};
//!
//! let orders = origin().on("/orders/*", Reply::echo()).run().await;
//! let corp = issuer().run().await;
//! let edge = gateway()
//!     .config(
//!         "
//! issuers:
//!   corp: { issuer: '@corp@', audiences: [edge], algorithms: [RS256], jwks: { url: '@jwks@' } }
//! upstreams:
//!   orders: { endpoints: ['@orders@'] }
//! routes:
//!   - name: orders
//!     match: { path: '/orders/*' }
//!     auth: { issuer: corp, scopes: { all: ['orders:read'] } }
//!     upstream: orders
//! ",
//!     )
//!     .set("corp", corp.name())
//!     .set("jwks", corp.jwks_url())
//!     .set("orders", orders.address())
//!     .run()
//!     .await;
//!
//! let token = corp.token().scopes(&["orders:read"]).sign();
//! let answer = client().get(edge.url("/orders/7")).bearer(&token).send().await;
//! assert_eq!(answer.status, 200);
//! edge.stop().await;
//! # }
//! ```
//!
//! Three rules hold for all of it. Servers bind free loopback ports and end when their handle is dropped. Every wait is
//! bounded by [`DEADLINE`] and ends with a message that says what did not happen. Nothing waits for time to pass where
//! there is an event to wait for.
//!
//! The kit signs its own tokens with the crypto library rather than with a JWT crate, so that it can make tokens which no
//! JWT crate would agree to make, and so that a fault in such a crate cannot hide on both sides of a test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken surrounding is a failed test, and the panic message says what broke"
)]

mod certificates;
mod client;
mod gateway;
mod holder;
mod issuer;
mod metrics;
mod origin;
mod stream;
mod wait;
pub mod websocket;

pub use certificates::{Authority, Certificate, authority};
pub use client::raw::{RawConnection, RawResponse, raw, raw_tls};
pub use client::{Client, Connection, Protocol, RequestBuilder, Response, client};
pub use gateway::log::LogLine;
pub use gateway::{Gateway, GatewayBuilder, Outcome, binary, gateway, run_to_end, run_to_end_unprivileged};
pub use holder::{Holder, holder};
pub use issuer::keys::{Algorithm, SigningKey};
pub use issuer::token::TokenBuilder;
pub use issuer::{Issuer, IssuerBuilder, Jwks, issuer};
pub use metrics::Metrics;
pub use origin::raw::{RawOrigin, raw_origin};
pub use origin::reply::{Reply, grpc_message};
pub use origin::{Origin, OriginBuilder, Seen, origin};
pub use stream::{BodySender, body_channel};
pub use wait::{DEADLINE, eventually, within};

/// The body type of requests that the kit sends and of responses that its origins give.
pub type Body = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BodyError>;

/// What can go wrong while a body streams.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body that holds `bytes` and nothing else.
#[must_use]
pub fn body(bytes: impl Into<bytes::Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
