//! Connections: taken, limited in number and in patience, and ended in good order.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::App;
use super::api;

/// Connections at once.
const MOST: usize = 512;
/// How long a client may take to send the head of a request, or to begin the next one.
const HEAD: Duration = Duration::from_secs(20);

/// Answers until the server ends; whether all that ran came to its end in time.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> bool {
    let service = TowerToHyperService::new(api::routes(app.clone()));
    let places = Arc::new(Semaphore::new(MOST));
    let mut ending = app.ending.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // As when too many files are open: it passes.
                    app.options.log.line("accept", &[("error", error.to_string().into())]);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = ending.wait_for(|ending| *ending) => break,
        };
        while connections.try_join_next().is_some() {}
        let (service, mut ending) = (service.clone(), app.ending.subscribe());
        connections.spawn(async move {
            let _place = place;
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = ending.wait_for(|ending| *ending) => {}
            }
            // The answer under way is finished, then the connection ends.
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(app.options.drain_timeout, all).await.is_ok()
}
