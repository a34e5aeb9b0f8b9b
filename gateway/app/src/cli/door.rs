//! Speaking to a running gateway's door, for commands that ask it something.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long the door may take to let one in, and to answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// The largest answer read.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// Where a door is: `127.0.0.1:9901`, `[::1]:9901`, `localhost:9901` or `unix:/run/sluice/admin.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Door {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path).is_absolute() {
                true => Ok(Self::Unix(path.into())),
                false => Err(format!("{path:?} is not an absolute path")),
            };
        }
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) if !text.contains(['/', '@']) => Ok(Self::Tcp(text.to_owned())),
            _ => Err("expected ADDRESS:PORT or unix:PATH".to_owned()),
        }
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The door says that the question is wrong.
    Refused(String),
    /// It cannot be spoken to.
    Unheard(String),
}

impl Door {
    /// Sends `body` to `path`. Gives the JSON that comes with a 200.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Unanswered> {
        let unheard = |why: String| Unanswered::Unheard(format!("the gateway's door at {self}: {why}"));
        let too_late = |what: &str| unheard(format!("{what} in time"));
        let (status, answer) = match self {
            Self::Tcp(address) => {
                let stream = timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await;
                let stream = stream.map_err(|_| too_late("not reached"))?;
                self.ask(stream.map_err(|e| unheard(e.to_string()))?, path, body).await
            }
            Self::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|e| unheard(e.to_string()))?;
                self.ask(stream, path, body).await
            }
        }
        .map_err(unheard)?;
        let json = serde_json::from_slice::<Value>(&answer);
        match (status, json) {
            (StatusCode::OK, Ok(json)) => Ok(json),
            (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, Ok(problem)) if problem["detail"].is_string() => {
                Err(Unanswered::Refused(problem["detail"].as_str().unwrap_or_default().to_owned()))
            }
            (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => {
                Err(unheard(format!("{status}: is it a gateway of this version?")))
            }
            (_, Ok(problem)) => {
                Err(unheard(format!("{status}: {}", problem["detail"].as_str().unwrap_or("without a reason"))))
            }
            (status, Err(_)) => Err(unheard(format!("{status}, and not as a gateway answers"))),
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Bytes), String> {
        let host = match self {
            Self::Tcp(address) => address.as_str(),
            Self::Unix(_) => "localhost",
        };
        let request = Request::post(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| e.to_string())?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            connection.abort();
            Ok::<_, hyper::Error>((status, body))
        };
        match timeout(ANSWER_PATIENCE, exchange).await {
            Ok(Ok((status, Ok(body)))) => Ok((status, body.to_bytes())),
            Ok(Ok((_, Err(e)))) => Err(e.to_string()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_an_address_or_a_socket() {
        for good in ["127.0.0.1:9901", "[::1]:9901", "localhost:1", "unix:/run/sluice/admin.sock"] {
            assert_eq!(good.parse::<Door>().map(|door| door.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "127.0.0.1", ":9901", "unix:admin.sock", "http://127.0.0.1:9901", "a@b:1", "localhost:x"] {
            assert!(bad.parse::<Door>().is_err(), "{bad}");
        }
    }
}
