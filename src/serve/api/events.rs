//! A job's events, as they happen: `text/event-stream`.

use std::convert::Infallible;

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;

/// How often a comment keeps a connection alive.
const ALIVE: Duration = Duration::from_secs(10);

/// Where events go. They are dropped if the client has left.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Sends an event; whether anybody listens.
    pub async fn send(&self, name: &str, data: &Value) -> bool {
        self.0.send(Bytes::from(format!("event: {name}\ndata: {data}\n\n"))).await.is_ok()
    }

    /// Waits until the client has left.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The answer that `write` sends events into, until it ends.
pub fn stream<F>(write: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    let events = Events(sender.clone());
    let writing = write(events);
    tokio::spawn(async move {
        tokio::pin!(writing);
        loop {
            tokio::select! {
                () = writing.as_mut() => return,
                () = tokio::time::sleep(ALIVE) => {
                    // One that cannot take it now has enough to read.
                    let _ = sender.try_send(Bytes::from_static(b": alive\n\n"));
                }
            }
        }
    });
    let body = Body::from_stream(Receiving(receiver));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // nginx would wait for more.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

struct Receiving(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Receiving {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}
