//! Request bodies that a test sends piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HyperBody, Frame};
use tokio::sync::mpsc;

use crate::{Body, BodyError};

/// Feeds a body; dropping it ends the body.
pub struct BodySender {
    pieces: mpsc::Sender<Bytes>,
}

/// A body of unannounced length and what feeds it. One piece waits at most, so that [`BodySender::send`] returns no
/// sooner than the connection takes what came before.
#[must_use]
pub fn body_channel() -> (BodySender, Body) {
    let (pieces, taken) = mpsc::channel(1);
    (BodySender { pieces }, Fed(taken).boxed_unsync())
}

impl BodySender {
    /// Sends a piece; `false` once nobody takes any more.
    pub async fn send(&self, piece: impl Into<Bytes>) -> bool {
        self.pieces.send(piece.into()).await.is_ok()
    }
}

struct Fed(mpsc::Receiver<Bytes>);

impl HyperBody for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
