//! What a component's imports lead to: the interfaces that every plugin has, and those that were granted.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::call::Call;
use crate::contract::{
    actions, body, clock, configuration, connection, exchange, fields, identity, key_value, log, metrics,
    outbound_http, random, request, response, routing, streams, tags, trailers,
};
use crate::grants::{Capability, Granted};

/// The host functions for a plugin with these grants.
pub(crate) fn linker(engine: &Engine, granted: Granted) -> wasmtime::Result<Linker<Call>> {
    let mut linker = Linker::new(engine);
    macro_rules! link {
        ($($interface:ident),+) => {{ $( $interface::add_to_linker::<_, HasSelf<_>>(&mut linker, |call| call)?; )+ }};
    }
    link!(actions, body, configuration, exchange, fields, log, request, response, streams, trailers);
    for capability in Capability::ALL.into_iter().filter(|capability| granted.has(*capability)) {
        match capability {
            Capability::Identity => link!(identity),
            Capability::Connection => link!(connection),
            Capability::Clock => link!(clock),
            Capability::Random => link!(random),
            Capability::Metrics => link!(metrics),
            Capability::Tags => link!(tags),
            Capability::Routing => link!(routing),
            Capability::KeyValue => link!(key_value),
            Capability::OutboundHttp => link!(outbound_http),
        }
    }
    Ok(linker)
}
