//! `unmist serve`: pictures for other programs over HTTP, and a page for people.
//!
//! One thread (`worker`) owns the device and the models; handlers put jobs into a bounded queue and wait. Three APIs
//! ask for the same things in different words (`api`): this server's own, OpenAI's and AUTOMATIC1111's. Everything
//! that comes in passes `guard` first.

mod api;
mod catalogue;
mod connections;
mod failure;
mod guard;
mod inside;
mod jobs;
mod log;
mod metrics;
mod order;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::backend::{Device, LoadOptions};
use crate::error::{Error, Result};
use crate::request::Precision;

use catalogue::Catalogue;
use jobs::Jobs;
use metrics::Metrics;
use worker::Worker;

pub use catalogue::Folders;
pub use log::Format as LogFormat;
pub use order::Limits;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen at.
    pub host: IpAddr,
    /// The port; 0 takes one that is free.
    pub port: u16,
    /// Where models are.
    pub folders: Folders,
    /// What a client has to know, if anything.
    pub api_key: Option<String>,
    /// Names by which clients may call the server, besides addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Origins of other pages that may use the server.
    pub cors_origins: Vec<String>,
    /// How many jobs may wait.
    pub queue: usize,
    /// How many equal jobs that wait are done at once.
    pub batch: usize,
    /// How much a request may ask for.
    pub limits: Limits,
    /// Storage of weights where a request leaves it open.
    pub precision: Option<Precision>,
    /// How long a job that runs may take when the server is told to end.
    pub drain_timeout: Duration,
    /// Where every picture is also saved.
    pub save: Option<PathBuf>,
    /// The engine for visitors' own GPUs, as `tools/web` builds it, to be given under `/web/`.
    pub web: Option<PathBuf>,
    /// How lines of the log look.
    pub log: LogFormat,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 7860,
            folders: Folders::default(),
            api_key: None,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            queue: 64,
            batch: 4,
            limits: Limits::default(),
            precision: None,
            drain_timeout: Duration::from_secs(30),
            save: None,
            web: None,
            log: LogFormat::Text,
        }
    }
}

/// What handlers and the worker share.
pub(crate) struct App {
    options: Options,
    catalogue: Catalogue,
    jobs: Jobs,
    metrics: Metrics,
    /// The device in one line.
    device: String,
    /// Files of the engine for browsers.
    web: api::WebFiles,
    /// What clients of AUTOMATIC1111's API have chosen.
    webui: api::Chosen,
    /// Whether the server is about to end.
    ending: watch::Sender<bool>,
}

/// A server that listens, and does not answer before [`Server::run`].
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    worker: Worker,
    runtime: tokio::runtime::Runtime,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct Stop(Arc<App>);

impl Stop {
    /// Takes no more jobs, lets the one that runs end, and then ends the server.
    pub fn stop(&self) {
        drain(&self.0);
    }
}

fn drain(app: &App) {
    app.jobs.drain();
    app.ending.send_replace(true);
}

impl Server {
    /// Looks for models and listens.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no model; [`Error::Io`] for folders that cannot be read; [`Error::Usage`] if the
    /// address cannot be listened at, or is open to others without a key.
    pub fn new(options: Options, device: Device, load: LoadOptions) -> Result<Self> {
        let catalogue = Catalogue::scan(&options.folders)?;
        let web = options.web.as_deref().map(api::web_files).transpose()?.unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(Error::io("threads of the server"))?;
        let address = SocketAddr::new(options.host, options.port);
        let listener = runtime.block_on(TcpListener::bind(address)).map_err(|error| {
            Error::Usage(format!("{address}: cannot listen there ({error}); is another server running?"))
        })?;
        let app = Arc::new(App {
            catalogue,
            jobs: Jobs::new(options.queue),
            metrics: Metrics::default(),
            device: device.describe(),
            web,
            webui: api::Chosen::default(),
            ending: watch::Sender::new(false),
            options,
        });
        Ok(Self { worker: Worker::new(app.clone(), device, load), app, listener, runtime })
    }

    /// Where it listens.
    ///
    /// # Panics
    /// If the system does not know.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a socket that listens has an address")
    }

    /// Names of the models.
    pub fn models(&self) -> Vec<String> {
        self.app.catalogue.models().map(str::to_owned).collect()
    }

    /// What ends it.
    pub fn stopper(&self) -> Stop {
        Stop(self.app.clone())
    }

    /// Answers until it is told to end: by [`Stop`], SIGTERM or Ctrl-C.
    ///
    /// # Errors
    /// [`Error::Device`] if the device was lost.
    pub fn run(self) -> Result<()> {
        let Self { app, listener, worker, runtime } = self;
        let for_worker = app.clone();
        let worker = std::thread::Builder::new().name("worker".into()).spawn(move || {
            let ended = worker.run();
            // Without it, nothing can be done any more.
            drain(&for_worker);
            ended
        });
        let worker = worker.map_err(Error::io("the worker's thread"))?;
        let signals = runtime.spawn(signals(app.clone()));
        let in_time = runtime.block_on(connections::serve(app.clone(), listener));
        signals.abort();
        if !in_time {
            // What still runs is given up: its clients were told nothing, and may ask another server.
            runtime.shutdown_background();
            return Ok(());
        }
        runtime.shutdown_timeout(Duration::from_secs(1));
        worker.join().expect("the worker does not panic")
    }
}

/// Tells the server to end when the system asks for it.
async fn signals(app: Arc<App>) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            drain(&app);
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_ok() {
        drain(&app);
    }
}
