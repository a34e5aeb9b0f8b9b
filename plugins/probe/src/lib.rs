//! A plugin that does and tells what its configuration names: test input for capabilities.
//!
//! Configuration: `ask`, a list of questions whose answers it sets as `x-NAME` (dots become dashes, nothing is `none`), and
//! `act`, a list of acts whose outcome it sets as `x-act-N`; in both, `phase: response` has it done in the response phase.
//! Then `end`: `trap`, `answer`, or nothing to go on.

use std::time::Duration;

use sluice_plugin_sdk::{
    Action, Answer, Outcome, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, clock, config,
    connection, export, identity, key_value, metrics, random, routing, tags,
};

struct Probe;

impl RequestHeaders for Probe {
    fn on_request_headers(request: Request) -> Outcome {
        if config::get("phase").as_deref() == Some("response") {
            return Ok(Action::Continue);
        }
        run(&|name, value| request.set_header(name, value))
    }
}

impl ResponseHeaders for Probe {
    fn on_response_headers(_: SentRequest, response: Response) -> Outcome {
        if config::get("phase").as_deref() != Some("response") {
            return Ok(Action::Continue);
        }
        run(&|name, value| response.set_header(name, value))
    }
}

type Set<'a> = &'a dyn Fn(&str, &str) -> Result<(), sluice_plugin_sdk::HeaderFault>;

fn run(set: Set<'_>) -> Outcome {
    for question in list("ask") {
        let answer = answer_to(&question).unwrap_or_else(|| "none".to_owned());
        set(&format!("x-{}", question.replace(['.', '/', ':'], "-")), &answer)?;
    }
    for (index, act) in list("act").enumerate() {
        set(&format!("x-act-{index}"), &outcome_of(&act))?;
    }
    match config::get("end").as_deref() {
        Some("trap") => panic!("told to trap"),
        Some("answer") => Ok(Answer::new(200).into()),
        _ => Ok(Action::Continue),
    }
}

fn list(key: &str) -> impl Iterator<Item = String> {
    (0..).map_while(move |index| config::get(&format!("/{key}/{index}")))
}

fn answer_to(question: &str) -> Option<String> {
    match question {
        "identity.is-verified" => Some(identity::is_verified().to_string()),
        "identity.tenant" => identity::tenant(),
        "identity.subject" => identity::subject(),
        "identity.issuer" => identity::issuer(),
        "identity.scopes" => Some(identity::scopes().join(",")),
        "identity.claims" => Some(identity::claims()),
        "connection.client" => connection::client().map(|address| address.to_string()),
        "connection.peer" => connection::peer().map(|address| address.to_string()),
        "connection.protocol" => Some(connection::protocol()),
        "connection.tls-version" => connection::tls_version(),
        "connection.server-name" => connection::server_name(),
        "connection.client-certificate" => connection::client_certificate(),
        "connection.round-trip" => connection::round_trip().map(|time| time.as_micros().to_string()),
        "clock.now" => Some(clock::since_epoch().as_nanos().to_string()),
        "clock.monotonic" => Some(clock::monotonic().as_nanos().to_string()),
        "random.number" => Some(random::number().to_string()),
        "routing.upstream" => routing::upstream(),
        _ => match question.split_once(':') {
            Some(("claim", name)) => identity::claim(name),
            Some(("random.bytes", length)) => Some(random::bytes(length.parse().ok()?).len().to_string()),
            _ => Some(format!("what is {question}?")),
        },
    }
}

fn outcome_of(act: &str) -> String {
    let parts: Vec<&str> = act.split(' ').collect();
    match parts[..] {
        ["choose", upstream] => format!("{:?}", routing::choose_upstream(upstream)),
        ["tag", name, value] => tags::set(name, value).to_string(),
        ["count", name, amount] => format!("{:?}", metrics::add(name, &[], amount.parse().unwrap_or(0))),
        ["count", name, label, value] => format!("{:?}", metrics::add(name, &[(label, value)], 1)),
        ["level", name, value] => format!("{:?}", metrics::set(name, &[], value.parse().unwrap_or(f64::NAN))),
        ["keep", key, value] => format!("{:?}", key_value::set(key, value.as_bytes(), None).map(drop)),
        ["keep", key, value, millis] => {
            let expires = millis.parse().ok().map(Duration::from_millis);
            format!("{:?}", key_value::set(key, value.as_bytes(), expires).map(drop))
        }
        ["kept", key] => match key_value::get(key) {
            Ok(Some(entry)) => String::from_utf8_lossy(&entry.value).into_owned(),
            other => format!("{other:?}"),
        },
        ["tally", key] => format!("{:?}", key_value::increment(key, 1, None)),
        ["drop", key] => format!("{:?}", key_value::delete(key)),
        ["swap", key, value] => {
            let version = key_value::get(key).ok().flatten().map(|entry| entry.version);
            format!("{:?}", key_value::compare_and_swap(key, version, value.as_bytes(), None).map(|new| new.is_some()))
        }
        _ => format!("how does one {act}?"),
    }
}

export!(Probe: RequestHeaders, ResponseHeaders);
