//! Bodies and trailers: whole, piece by piece, and what a plugin that misbehaves there comes to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::json;
use sluice_plugins::{Chain, LONGEST_BODY, OnFailure, Options, Outcome, Passage, PluginConfig, Visit};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::share::{Claim, Share};
use sluice_vocabulary::{Reason, Refusal};

use crate::world::{World, headers, plugin, request, response, visit, visit_on};

fn bodies(phase: &str, does: &str, what: &str) -> PluginConfig {
    let guest = if phase.ends_with("-body") { "bodies.wasm" } else { "chunks.wasm" };
    plugin(guest, json!({ "phase": phase, "does": does, "what": what }))
}

/// Sends a body through the phase that gets it whole.
async fn whole(chain: &Chain, body: &str) -> (HeaderMap, Bytes, Outcome) {
    let (head, body, outcome) =
        chain.on_request_body(request(&[]), Bytes::copy_from_slice(body.as_bytes()), &mut visit()).await;
    (head.headers, body, outcome)
}

async fn of_request(chain: &Chain, visit: &mut Visit) -> Result<Passage, Refusal> {
    Passage::of_request(&[chain], Arc::new(request(&[("x-before", "b")])), visit).await
}

async fn of_response(chain: &Chain, visit: &mut Visit) -> Result<Passage, Refusal> {
    Passage::of_response(&[chain], Arc::new(request(&[])), Arc::new(response(&[])), visit).await
}

/// Sends the pieces of a body, the last of which is its end, through the phase; gives what came of each.
async fn pieces(chain: &Chain, phase: &str, pieces: &[&str]) -> Result<Vec<String>, Refusal> {
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let mut visit = visit();
    let is_request = phase == "request-chunk";
    let mut passage =
        if is_request { of_request(chain, &mut visit).await? } else { of_response(chain, &mut visit).await? };
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let (piece, is_last) = (Bytes::copy_from_slice(piece.as_bytes()), index + 1 == pieces.len());
        out.push(text(if is_request {
            passage.piece(piece, is_last).await?
        } else {
            passage.piece_now(piece, is_last)?
        }));
    }
    Ok(out)
}

async fn trailers(chain: &Chain, fields: &[(&str, &str)]) -> Result<HeaderMap, Refusal> {
    of_response(chain, &mut visit()).await?.trailers_now(headers(fields))
}

#[tokio::test]
async fn a_whole_body_is_read_changed_and_decided_on() {
    let world = World::new().await;
    let chain = world.chain(bodies("request-body", "upper", "")).await;
    let (fields, body, outcome) = whole(&chain, "hello").await;
    assert!(matches!(outcome, Outcome::Continue(operations) if operations.len() == 1));
    assert_eq!((&body[..], &fields["x-body-size"]), (&b"HELLO"[..], &"5".parse().unwrap()));

    let chain = world.chain(bodies("request-body", "drop", "")).await;
    assert!(whole(&chain, "hello").await.1.is_empty());
    let chain = world.chain(bodies("request-body", "answer", "")).await;
    assert!(matches!(whole(&chain, "hello").await.2, Outcome::Answer(answer) if answer.body == "hello"));
    let chain = world.chain(bodies("request-body", "refuse", "")).await;
    assert!(
        matches!(whole(&chain, "hello").await.2, Outcome::Refuse(refusal) if refusal.reason == Reason::PluginRefused)
    );
}

#[tokio::test]
async fn what_one_plugin_makes_of_a_body_is_what_the_next_gets() {
    let world = World::new().await;
    let (first, second) = (bodies("request-body", "put", "made"), bodies("request-body", "upper", ""));
    let chain = world.load(&[("a", first), ("b", second)]).await.unwrap().all;
    assert_eq!(whole(&chain, "x").await.1, "MADE");
    let (first, second) = (bodies("response-chunk", "number", ""), bodies("response-chunk", "upper", ""));
    let chain = world.load(&[("a", first), ("b", second)]).await.unwrap().all;
    // In reverse: the last of the chain sees it first.
    assert_eq!(pieces(&chain, "response-chunk", &["ab", "cd"]).await.unwrap(), ["[1:AB]", "[2:CD$]"]);
}

#[tokio::test]
async fn a_request_without_a_body_cannot_be_given_one() {
    let world = World::new().await;
    let chain = world.chain(bodies("request-body", "put", "from nothing")).await;
    let (_, body, outcome) = whole(&chain, "").await;
    assert!(matches!(outcome, Outcome::Refuse(refusal) if refusal.reason == Reason::PluginFailed));
    assert!(body.is_empty());
    assert_eq!(world.failures("p", "output"), 1.0);
}

#[tokio::test]
async fn one_instance_sees_all_pieces_of_a_body_and_its_end() {
    let world = World::new().await;
    for phase in ["request-chunk", "response-chunk"] {
        let chain = world.chain(bodies(phase, "number", "")).await;
        assert_eq!(pieces(&chain, phase, &["ab", "cd", ""]).await.unwrap(), ["[1:ab]", "[2:cd]", "[3:$]"]);
        // An empty piece that is not the end is none.
        assert_eq!(pieces(&chain, phase, &["", "ab"]).await.unwrap(), ["", "[1:ab$]"]);
        assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
    }
}

#[tokio::test]
async fn the_headers_can_be_read_while_the_body_goes_by() {
    let world = World::new().await;
    let chain = world.chain(bodies("request-chunk", "tell", "")).await;
    assert_eq!(pieces(&chain, "request-chunk", &["x"]).await.unwrap(), ["Some(\"b\")"]);
    let chain = world.chain(bodies("response-chunk", "tell", "")).await;
    assert_eq!(pieces(&chain, "response-chunk", &["x"]).await.unwrap(), ["Some(\"200\")"]);
}

#[tokio::test]
async fn a_long_piece_is_handed_out_in_parts() {
    let world = World::new().await;
    let long = "x".repeat(100 << 10);
    for phase in ["request-chunk", "response-chunk"] {
        let chain = world.chain(bodies(phase, "number", "")).await;
        let out = pieces(&chain, phase, &[&long]).await.unwrap();
        assert_eq!(out[0].len(), long.len() + "[1:][2:$]".len());
        assert!(out[0].starts_with("[1:x") && out[0].ends_with("x$]"), "{phase}");
        // What one plugin made larger is cut for the next as well.
        let two = [("a", bodies("request-chunk", "large", "")), ("b", bodies("request-chunk", "number", ""))];
        let chain = world.load(&two).await.unwrap().all;
        let out = pieces(&chain, "request-chunk", &["x"]).await.unwrap();
        assert_eq!(out[0].matches(':').count(), 4);
    }
}

#[tokio::test]
async fn a_response_is_gathered_until_its_end() {
    let world = World::new().await;
    let chain = world.chain(bodies("response-body", "upper", "")).await;
    assert_eq!(pieces(&chain, "response-body", &["ab", "cd", ""]).await.unwrap(), ["", "", "ABCD"]);
    assert_eq!(pieces(&chain, "response-body", &["ab", "cd"]).await.unwrap(), ["", "ABCD"]);
    let most = "x".repeat(LONGEST_BODY);
    assert_eq!(pieces(&chain, "response-body", &[&most, ""]).await.unwrap()[1].len(), LONGEST_BODY);
}

#[tokio::test]
async fn a_response_too_long_to_gather_ends_or_passes_unseen() {
    let world = World::new().await;
    let long = "x".repeat(LONGEST_BODY / 2);
    let sent = [long.as_str(), &long, "y", "z"];
    let chain = world.chain(bodies("response-body", "upper", "")).await;
    let refusal = pieces(&chain, "response-body", &sent).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::PluginFailed);
    assert_eq!(world.failures("p", "body"), 1.0);
    let skipped = PluginConfig { on_failure: OnFailure::Skip, ..bodies("response-body", "upper", "") };
    let chain = world.chain(skipped).await;
    let out = pieces(&chain, "response-body", &sent).await.unwrap();
    assert_eq!(out.iter().map(String::len).collect::<Vec<_>>(), [0, 0, 2 * long.len() + 1, 1]);
    assert!(out[2].ends_with("xy"));
}

#[tokio::test]
async fn trailers_are_read_and_changed() {
    let world = World::new().await;
    let chain = world.chain(bodies("response-trailers", "mark", "")).await;
    let seen = trailers(&chain, &[("grpc-status", "0"), ("x-secret", "s")]).await.unwrap();
    assert_eq!(seen, headers(&[("grpc-status", "0"), ("x-seen", "0")]));
}

/// What fails, and the reason under which it is counted.
const FAILING: [(&str, &str); 8] = [
    ("trap", "trap"),
    ("error", "trap"),
    ("loop", "deadline"),
    ("call-storm", "deadline"),
    ("grow", "memory"),
    ("recurse", "trap"),
    ("huge", "output"),
    ("unheard-of", "trap"),
];
const PHASES: [&str; 5] = ["request-body", "request-chunk", "response-body", "response-chunk", "response-trailers"];

/// Sends `body` through a phase; gives what came of it, or why the exchange ends.
async fn through(chain: &Chain, phase: &str) -> Result<String, Refusal> {
    match phase {
        "request-body" => match whole(chain, "body").await {
            (_, body, Outcome::Continue(_)) => Ok(String::from_utf8(body.to_vec()).unwrap()),
            (_, body, Outcome::Refuse(refusal)) => {
                assert_eq!(body, "body");
                Err(refusal)
            }
            (_, _, other) => panic!("{other:?}"),
        },
        "response-trailers" => {
            trailers(chain, &[("x", "body")]).await.map(|seen| seen["x"].to_str().unwrap().to_owned())
        }
        _ => pieces(chain, phase, &["body"]).await.map(|out| out.concat()),
    }
}

#[tokio::test]
async fn every_misbehaviour_in_every_phase_behind_the_headers_ends_the_exchange_or_is_skipped() {
    let world = World::new().await;
    let mut cells = 0;
    for phase in PHASES {
        for (does, reason) in FAILING {
            if does == "huge" && phase == "response-trailers" {
                continue;
            }
            for on_failure in [OnFailure::Refuse, OnFailure::Skip] {
                let mut config = PluginConfig { on_failure, ..bodies(phase, does, "") };
                // Some touch megabytes. What nobody can wait for has its slice and no more.
                config.limits.deadline = Span::millis(if reason == "deadline" { 5 } else { 1000 });
                config.limits.memory = sluice_vocabulary::measure::ByteSize::mib(2);
                let chain = world.chain(config).await;
                let before: f64 = ["deadline", reason].iter().map(|reason| world.failures("p", reason)).sum();
                match (on_failure, through(&chain, phase).await) {
                    (OnFailure::Refuse, Err(refusal)) => {
                        assert_eq!(refusal.reason, Reason::PluginFailed, "{does} in {phase}");
                        assert!(refusal.detail.is_none(), "{does} in {phase}: the client learns nothing");
                    }
                    (OnFailure::Skip, Ok(unchanged)) => assert_eq!(unchanged, "body", "{does} in {phase}"),
                    (_, other) => panic!("{does} in {phase}: {other:?}"),
                }
                // On a busy machine a slice may be over before the guest has filled its memory.
                let after: f64 = ["deadline", reason].iter().map(|reason| world.failures("p", reason)).sum();
                assert!(after > before, "{does} in {phase} is counted as {reason}");
                assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
                cells += 1;
            }
        }
    }
    println!("{cells} cells");
    assert_eq!(cells, (PHASES.len() * FAILING.len() - 1) * 2);
}

#[tokio::test]
async fn a_log_flood_in_every_phase_costs_a_line_each_and_no_more() {
    let world = World::new().await;
    for phase in PHASES {
        let mut config = bodies(phase, "flood-log", "");
        config.limits.deadline = Span::secs(1);
        let chain = world.chain(config).await;
        // A thousand lines may be more than fits into a slice: what counts is that it ends.
        if let Err(refusal) = through(&chain, phase).await {
            assert_eq!(refusal.reason, Reason::PluginFailed);
        }
        assert!(world.metric("log_lines_dropped_total{plugin=\"p\"}") > 0.0, "{phase}");
    }
}

#[tokio::test]
async fn a_plugin_can_end_the_exchange_in_the_middle() {
    let world = World::new().await;
    for phase in ["request-chunk", "response-chunk"] {
        let chain = world.chain(bodies(phase, "abort-on", "secret")).await;
        assert_eq!(pieces(&chain, phase, &["public", "more"]).await.unwrap().concat(), "publicmore");
        let refusal = pieces(&chain, phase, &["public", "a secret", "more"]).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::PluginRefused);
    }
    let chain = world.chain(bodies("response-trailers", "abort", "")).await;
    assert_eq!(trailers(&chain, &[]).await.unwrap_err().reason, Reason::PluginRefused);
    let failed: f64 = ["trap", "output", "deadline"].iter().map(|reason| world.failures("p", reason)).sum();
    assert_eq!(failed, 0.0);
}

#[tokio::test]
async fn who_fails_in_the_middle_and_may_be_skipped_sees_no_more_of_the_body() {
    let world = World::new().await;
    for phase in ["request-chunk", "response-chunk"] {
        let config = PluginConfig { on_failure: OnFailure::Skip, ..bodies(phase, "trap-late", "") };
        let chain = world.chain(config).await;
        let before = world.failures("p", "trap");
        assert_eq!(pieces(&chain, phase, &["a", "b", "c", "d"]).await.unwrap().concat(), "abcd");
        assert_eq!(world.failures("p", "trap"), before + 1.0);
    }
}

#[tokio::test]
async fn bodies_under_way_hold_half_of_the_instances_at_most() {
    let world = World::with(Options { instances: 8, queue: Duration::from_millis(1) }).await;
    let chain = world.chain(bodies("response-chunk", "number", "")).await;
    let mut under_way = Vec::new();
    for _ in 0..4 {
        under_way.push(of_response(&chain, &mut visit()).await.unwrap());
    }
    let refusal = of_response(&chain, &mut visit()).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::PluginOverloaded);
    assert_eq!(world.failures("p", "overloaded"), 1.0);
    under_way.pop();
    let mut passage = of_response(&chain, &mut visit()).await.unwrap();
    assert_eq!(passage.piece_now(Bytes::from_static(b"x"), true).unwrap(), "[1:x$]");
    drop((passage, under_way));
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 0.0);
}

#[tokio::test]
async fn what_runs_where_nobody_can_wait_is_owed() {
    let world = World::new().await;
    let config = PluginConfig { on_failure: OnFailure::Skip, ..bodies("response-chunk", "loop", "") };
    let chain = world.chain(config).await;
    let share = Share { instances: 32, cpu: Duration::from_millis(1) };
    let claim = Claim::new(Arc::default(), share, None);
    let mut owed = Duration::ZERO;
    for _ in 0..3 {
        let mut passage = of_response(&chain, &mut visit_on(claim.clone())).await.unwrap();
        passage.piece_now(Bytes::from_static(b"x"), true).unwrap();
        owed = passage.owed(Instant::now());
    }
    // Three slices of a millisecond at least, of which one is a second's worth.
    assert!(owed > Duration::from_millis(900), "{owed:?}");
}

#[tokio::test]
async fn a_fallback_cannot_stand_in_where_a_message_is_under_way() {
    let world = World::new().await;
    let mut config = bodies("request-chunk", "number", "");
    config.fallback =
        Some(serde_json::from_value(json!({ "component": crate::world::prebuilt("chunks.wasm") })).unwrap());
    let faults = world.load(&[("p", config)]).await.unwrap_err();
    assert!(faults[0].to_string().contains("where a failure cannot be undone"), "{faults:?}");
}
