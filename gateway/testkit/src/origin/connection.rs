//! An origin's connections: accepting them, serving each, and ending it as its script says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as HyperBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reply::{Content, Ending};
use super::{Script, Seen, Shared, header_map};
use crate::{Body, BodyError, Reply, body, websocket};

/// How much of a request's body is remembered.
const REMEMBERED: usize = 1 << 20;

/// The size of a piece of a streamed body.
const PIECE: usize = 64 << 10;

/// How long a connection that ends within an answer is still driven, so that what was said before reaches the peer.
/// HTTP/2 hands bodies from task to task, so that nothing marks the moment when they have been written.
const LAST_WORDS: Duration = Duration::from_millis(20);

pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        if shared.manners.reset_on_accept {
            let _ = stream.set_zero_linger();
            continue;
        }
        let (tls, shared, stop) = (tls.clone(), Arc::clone(&shared), stop.clone());
        tasks.spawn(async move {
            shared.open.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = serve(stream, tls, &shared, peer, number) => {}
                () = stop.cancelled() => {}
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Arc<Shared>, peer: SocketAddr, number: u64) {
    let _ = stream.set_nodelay(true);
    // A second descriptor of the same socket: hyper owns the first, and the option that turns a close into a reset must
    // be set just before both are dropped.
    let Ok(stream) = stream.into_std() else { return };
    let Ok(handle) = stream.try_clone() else { return };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let link = Arc::new(Link::new(peer, number));
    match tls {
        None => serve_stream(stream, shared, &link).await,
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            *link.server_name.lock() = stream.get_ref().1.server_name().map(str::to_owned);
            serve_stream(stream, shared, &link).await;
        }
    }
    // The stream itself is gone by now, so dropping `handle` is what closes the connection.
    if link.reset.load(Ordering::Relaxed) == 1 {
        let _ = socket2::SockRef::from(&handle).set_linger(Some(Duration::ZERO));
    }
}

async fn serve_stream<S>(stream: S, shared: &Arc<Shared>, link: &Arc<Link>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        async move { answer(request, &shared, &link).await }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let idle = async {
        match shared.manners.idle_limit {
            Some(limit) => link.idle_for(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        () = link.end.notified() => {
            if link.hurried.load(Ordering::Relaxed) == 0 {
                let _ = tokio::time::timeout(LAST_WORDS, connection.as_mut()).await;
            }
        }
        () = idle => {}
    }
}

/// What a connection's requests share.
struct Link {
    peer: SocketAddr,
    number: u64,
    server_name: Mutex<Option<String>>,
    end: Notify,
    /// 1 if the end is to be a reset.
    reset: AtomicUsize,
    /// 1 if the end is to come without last words.
    hurried: AtomicUsize,
    in_flight: AtomicUsize,
    answered: AtomicUsize,
    activity: Notify,
}

impl Link {
    fn new(peer: SocketAddr, number: u64) -> Self {
        Self {
            peer,
            number,
            server_name: Mutex::default(),
            end: Notify::new(),
            reset: AtomicUsize::new(0),
            hurried: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            activity: Notify::new(),
        }
    }

    fn end_now(&self, reset: bool, hurried: bool) {
        self.reset.store(usize::from(reset), Ordering::Relaxed);
        self.hurried.store(usize::from(hurried), Ordering::Relaxed);
        self.end.notify_one();
    }

    /// Returns once nothing has been in flight for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let activity = self.activity.notified();
            if self.in_flight.load(Ordering::Relaxed) == 0 {
                tokio::select! {
                    () = activity => {}
                    () = tokio::time::sleep(limit) => return,
                }
            } else {
                activity.await;
            }
        }
    }
}

/// Marks a request as in flight until its answer's body has been taken or dropped.
struct InFlight {
    link: Arc<Link>,
    answers_per_connection: Option<usize>,
    reset_after: bool,
    /// HTTP/1.1 drops a body and writes its last bytes in one go; HTTP/2 writes them later.
    hurried: bool,
}

impl InFlight {
    fn begin(shared: &Shared, link: &Arc<Link>, version: Version) -> Self {
        link.in_flight.fetch_add(1, Ordering::Relaxed);
        link.activity.notify_waiters();
        Self {
            link: Arc::clone(link),
            answers_per_connection: shared.manners.answers_per_connection,
            reset_after: false,
            hurried: version < Version::HTTP_2,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.link.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.link.activity.notify_waiters();
        let answered = self.link.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if self.reset_after || self.answers_per_connection.is_some_and(|limit| answered >= limit) {
            self.link.end_now(self.reset_after, self.hurried);
        }
    }
}

async fn answer(
    mut request: Request<Incoming>,
    shared: &Arc<Shared>,
    link: &Arc<Link>,
) -> Result<Response<Body>, Infallible> {
    let mut in_flight = InFlight::begin(shared, link, request.version());
    let head = seen(&request, link);
    let script = shared.script(&head.target);
    let leaves_body = matches!(&script, Script::Fixed(reply) if reply.leaves_body());
    let place = shared.record(head.clone());
    let head = if leaves_body {
        head
    } else {
        let (body, length) = read(request.body_mut(), shared).await;
        shared.complete(place, body, length)
    };
    let reply = match script {
        Script::Fixed(reply) => *reply,
        Script::Computed(compute) => compute(&head),
    };
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    match reply.ending {
        Ending::ResetBefore | Ending::CloseBefore => {
            link.end_now(reply.ending == Ending::ResetBefore, true);
            std::future::pending::<()>().await;
        }
        Ending::ResetAfter => in_flight.reset_after = true,
        Ending::Keep | Ending::ResetWithin | Ending::CloseWithin => {}
    }
    Ok(respond(reply, request, &head, shared, in_flight).await)
}

fn seen(request: &Request<Incoming>, link: &Link) -> Seen {
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let host = request.headers().get("host").and_then(|host| host.to_str().ok());
    let authority = host.or(request.uri().authority().map(|authority| authority.as_str()));
    Seen {
        method: request.method().clone(),
        target,
        version: request.version(),
        authority: authority.map(str::to_owned),
        headers: request.headers().clone(),
        body: Bytes::new(),
        body_length: 0,
        connection: link.number,
        peer: link.peer,
        server_name: link.server_name.lock().clone(),
    }
}

/// Reads a body to its end, keeping the first MiB.
async fn read(incoming: &mut Incoming, shared: &Shared) -> (Bytes, u64) {
    let (mut kept, mut length) = (BytesMut::new(), 0);
    let mut held = shared.held.subscribe();
    loop {
        // An error would mean that the origin is gone, which ends this task as well.
        let _ = held.wait_for(|held| !*held).await;
        let Some(Ok(frame)) = incoming.frame().await else { break };
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            shared.sunk.fetch_add(data.len() as u64, Ordering::Relaxed);
            let room = REMEMBERED - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    (kept.freeze(), length)
}

async fn respond(
    reply: Reply,
    request: Request<Incoming>,
    head: &Seen,
    shared: &Arc<Shared>,
    in_flight: InFlight,
) -> Response<Body> {
    let mut response = Response::new(());
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers.clone();
    let content = match reply.content.clone() {
        Content::Silence => std::future::pending().await,
        Content::WebSocket => return upgrade(request, in_flight),
        Content::Mirror => Outgoing::Mirror(request.into_body()),
        Content::Echo => Outgoing::Whole(echo(head)),
        Content::Sink => Outgoing::Whole(serde_json::json!({ "bytes": head.body_length }).to_string().into()),
        Content::Bytes(bytes) => Outgoing::Whole(bytes),
        Content::Pieces { pieces, pause } => Outgoing::Pieces { pieces, pause, announced: None },
        Content::Zeros { length, announce } => Outgoing::Zeros { length, announced: announce.then_some(length) },
    };
    let within = matches!(reply.ending, Ending::ResetWithin | Ending::CloseWithin);
    let body = match content {
        Outgoing::Whole(bytes) if !within && reply.trailers.is_none() => {
            return response.map(|()| Guarded { body: body(bytes), _in_flight: in_flight }.boxed_unsync());
        }
        Outgoing::Whole(bytes) => {
            let announced = reply.trailers.is_none().then_some(bytes.len() as u64);
            let half = bytes.len() / 2;
            let pieces = vec![bytes.slice(..half), bytes.slice(half..)];
            stream(Outgoing::Pieces { pieces, pause: Duration::ZERO, announced }, &reply, shared, &in_flight.link)
        }
        Outgoing::Mirror(incoming) => incoming.map_err(BodyError::from).boxed_unsync(),
        streamed => stream(streamed, &reply, shared, &in_flight.link),
    };
    response.map(|()| Guarded { body, _in_flight: in_flight }.boxed_unsync())
}

enum Outgoing {
    Whole(Bytes),
    Mirror(Incoming),
    Pieces { pieces: Vec<Bytes>, pause: Duration, announced: Option<u64> },
    Zeros { length: u64, announced: Option<u64> },
}

fn echo(head: &Seen) -> Bytes {
    let mut told = serde_json::json!({
        "method": head.method.as_str(),
        "target": head.target,
        "path": head.target.split('?').next(),
        "authority": head.authority,
        "version": format!("{:?}", head.version),
        "headers": header_map(&head.headers),
        "body_length": head.body_length,
        "connection": head.connection,
    });
    if let Ok(text) = std::str::from_utf8(&head.body) {
        told["body"] = text.into();
    }
    told.to_string().into()
}

/// A body fed by a task of its own through a channel that holds one piece, so that it is produced no faster than taken.
fn stream(outgoing: Outgoing, reply: &Reply, shared: &Arc<Shared>, link: &Arc<Link>) -> Body {
    let (pieces, rest) = mpsc::channel(1);
    let announced = match &outgoing {
        Outgoing::Pieces { announced, .. } | Outgoing::Zeros { announced, .. } => *announced,
        Outgoing::Whole(_) | Outgoing::Mirror(_) => None,
    };
    let (ending, trailers) = (reply.ending, reply.trailers.clone());
    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
    tokio::spawn(async move {
        let _ = produce(outgoing, ending, trailers, &pieces, &shared, &link).await;
    });
    Streamed { rest, announced }.boxed_unsync()
}

/// Sends every piece; an error says that the connection went away, which ends the work.
async fn produce(
    outgoing: Outgoing,
    ending: Ending,
    trailers: Option<HeaderMap>,
    out: &mpsc::Sender<Frame<Bytes>>,
    shared: &Shared,
    link: &Link,
) -> Result<(), mpsc::error::SendError<Frame<Bytes>>> {
    let within = matches!(ending, Ending::ResetWithin | Ending::CloseWithin);
    match outgoing {
        Outgoing::Pieces { pieces, pause, .. } => {
            let count = if within { pieces.len().saturating_sub(1) } else { pieces.len() };
            for piece in pieces.into_iter().take(count) {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                shared.produced.fetch_add(piece.len() as u64, Ordering::Relaxed);
                out.send(Frame::data(piece)).await?;
            }
        }
        Outgoing::Zeros { length, .. } => {
            let zeros = Bytes::from(vec![0; PIECE]);
            let mut left = if within { length / 2 } else { length };
            while left > 0 {
                let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                shared.produced.fetch_add(size as u64, Ordering::Relaxed);
                out.send(Frame::data(zeros.slice(..size))).await?;
                left -= size as u64;
            }
        }
        Outgoing::Whole(_) | Outgoing::Mirror(_) => {}
    }
    if within {
        // A free place in the channel means that hyper has taken the last piece; it writes before it asks again.
        let _place = out.reserve().await.map_err(|_| mpsc::error::SendError(Frame::data(Bytes::new())))?;
        link.end_now(ending == Ending::ResetWithin, false);
        out.closed().await;
    }
    if let Some(trailers) = trailers {
        out.send(Frame::trailers(trailers)).await?;
    }
    Ok(())
}

struct Streamed {
    rest: mpsc::Receiver<Frame<Bytes>>,
    announced: Option<u64>,
}

impl HyperBody for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.rest.poll_recv(context).map(|frame| frame.map(Ok))
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body that keeps its request in flight until it is dropped.
struct Guarded {
    body: Body,
    _in_flight: InFlight,
}

impl HyperBody for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn upgrade(mut request: Request<Incoming>, in_flight: InFlight) -> Response<Body> {
    let Some(accept) = websocket::accept_for(request.headers()) else {
        let mut refusal = Response::new(body("not a WebSocket handshake"));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return refusal;
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _in_flight = in_flight;
        if let Ok(stream) = upgraded.await {
            websocket::echo(TokioIo::new(stream)).await;
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept);
    response.body(body("")).expect("a response of fixed parts")
}
