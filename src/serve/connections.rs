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

/// How long a server that is about to end still answers those who have not heard of it, at the least.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long answers that are on their way may take then.
const LAST: Duration = Duration::from_secs(5);

/// Answers until the server ends, and says so to those who come late; whether what ran came to its end in time.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> bool {
    let service = TowerToHyperService::new(api::routes(app.clone()));
    let places = Arc::new(Semaphore::new(MOST));
    let ended = drained(app.clone());
    tokio::pin!(ended);
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
            () = ended.as_mut() => break,
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
    if app.jobs.counts().0 > 0 {
        return false;
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST, all).await;
    true
}

/// Waits until the server is to end, and then until nothing runs, or for too long.
async fn drained(app: Arc<App>) {
    let _ = app.ending.subscribe().wait_for(|ending| *ending).await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < FAREWELL || app.jobs.counts().0 > 0 {
        if began.elapsed() >= app.options.drain_timeout {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
