//! Asking one endpoint how it is: one GET over a connection of its own, with the identity that requests have.

use std::time::Duration;

use http::{Method, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_error::{Error, ErrorType, OkOrErr, OrErr, Result};
use pingora_http::RequestHeader;

use crate::cluster::Cluster;
use crate::config::HealthConfig;
use crate::endpoint::EndpointState;
use crate::peer::plain;

/// Asks once. An error says what was wrong, for the log.
pub(crate) async fn ask(
    connector: &Connector,
    cluster: &Cluster,
    state: &EndpointState,
    health: &HealthConfig,
) -> Result<()> {
    let answer = tokio::time::timeout(health.timeout.get(), exchange(connector, cluster, state, health));
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, format!("no answer within {}", health.timeout)),
    }
}

async fn exchange(
    connector: &Connector,
    cluster: &Cluster,
    state: &EndpointState,
    health: &HealthConfig,
) -> Result<()> {
    let identity = cluster.identity();
    let mut peer = plain(&cluster.config, &identity, state);
    // Not to be mixed with the connections of requests, should a connection ever be kept.
    peer.group_key = !identity.group_key;
    peer.options.connection_timeout = Some(health.timeout.get());
    peer.options.total_connection_timeout = Some(health.timeout.get());

    let host = match (&health.host, identity.server_name.as_str()) {
        (Some(host), _) => host.clone(),
        (None, "") => state.address.to_string(),
        (None, name) => name.to_owned(),
    };
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let mut request = RequestHeader::build(Method::GET, health.path.as_bytes(), None)?;
    request.insert_header(header::USER_AGENT, "sluice-health")?;
    if matches!(session, HttpSession::H2(_)) {
        // Pingora sends what the URI holds; HTTP/2 needs its authority there, and HTTP/1 its Host among the fields.
        let scheme = if identity.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{host}{}", health.path);
        request.set_uri(uri.parse().or_err(ErrorType::InvalidHTTPHeader, "the health check's URI")?);
        request.set_version(http::Version::HTTP_2);
    } else {
        request.insert_header(header::HOST, &host)?;
        request.insert_header(header::CONNECTION, "close")?;
    }
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.set_read_timeout(Some(health.timeout.get()));
    let status = loop {
        session.read_response_header().await?;
        let header = session.response_header().or_err(ErrorType::InvalidHTTPHeader, "no header")?;
        if !header.status.is_informational() {
            break header.status;
        }
    };
    session.shutdown().await;
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Error::e_explain(ErrorType::HTTPStatus(status.as_u16()), "not a good answer")
    }
}

/// The time to the next question: the interval, give or take a tenth.
pub(crate) fn jittered(interval: Duration, chance: u64) -> Duration {
    let tenth = interval / 10;
    let spread = u32::try_from(chance % 1_000).unwrap_or(0);
    interval - tenth + (tenth * 2 * spread) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_do_not_ask_in_step_and_never_far_from_when_told() {
        let interval = Duration::from_secs(10);
        for chance in [0, 1, 499, 999, 1_000, u64::MAX] {
            let next = jittered(interval, chance);
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&next), "{chance}: {next:?}");
        }
        assert_ne!(jittered(interval, 0), jittered(interval, 500));
    }
}
