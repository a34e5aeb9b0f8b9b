//! What ties a request to others.

use std::sync::Arc;

use http::HeaderMap;
use sluice_telemetry::{RequestId, TraceConfig, TraceContext, Tracing};
use sluice_vocabulary::clock::SystemRandom;

const FIELDS: &[&str] = &[
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
];

/// What goes on to the upstream is well-formed whatever came, and is the same trace to whoever reads it.
pub fn trace(bytes: &[u8]) {
    let arrived = crate::header(bytes, FIELDS);
    let tracing = Tracing::new(&TraceConfig::default(), Arc::new(SystemRandom));
    for trusted in [false, true] {
        let context = tracing.context(&arrived, trusted);
        let mut sent = HeaderMap::new();
        for (name, value) in context.headers() {
            assert!(sent.insert(name, value).is_none(), "a field is sent twice");
        }
        let read = TraceContext::parse(&sent).expect("what is sent is well-formed");
        assert_eq!(read.trace_id().as_str(), context.trace_id().as_str());
        assert_eq!(read.is_sampled(), context.is_sampled());
        assert_eq!(read.traceparent(), context.traceparent());
        if context.is_continued() {
            let parent = TraceContext::parse(&arrived).expect("what is continued was there");
            assert_eq!(parent.trace_id().as_str(), context.trace_id().as_str());
            assert_ne!(parent.traceparent(), context.traceparent(), "the gateway has no span of its own");
        }

        let id = tracing.request_id(&arrived, trusted);
        assert_eq!(RequestId::parse(id.as_str().as_bytes()), Some(id), "an id that is not one to the next hop");
    }
}
