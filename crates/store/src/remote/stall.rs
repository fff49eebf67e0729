//! A body that may be slow but not silent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::Answer;
use crate::Kind;

/// Ends in an error when nothing arrived for a while.
pub(super) struct Stalling {
    body: HttpResponseBody,
    stall: Duration,
    /// When the silence is over; moved by every piece.
    deadline: Instant,
    /// The timer behind it, moved only when it rings: a piece costs no timer.
    timer: Pin<Box<Sleep>>,
}

impl Stalling {
    pub(super) fn new(body: HttpResponseBody, stall: Duration) -> Self {
        let deadline = Instant::now() + stall;
        Self { body, stall, deadline, timer: Box::pin(sleep_until(deadline)) }
    }
}

impl Body for Stalling {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.deadline = Instant::now() + self.stall;
            return Poll::Ready(frame);
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= self.deadline {
                let text = format!("nothing arrived for {:?}", self.stall);
                let answer = Answer { kind: Kind::Transient, text };
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, answer))));
            }
            let deadline = self.deadline;
            self.timer.as_mut().reset(deadline);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
