//! The threads that serve connections: each a runtime of its own that shares nothing with the others.
//!
//! A connection stays on the thread it was given to. With one runtime per thread there is no work stealing, and Pingora's
//! upstream pools, which are per thread, serve the requests of the same thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use pingora_core::apps::HttpServerApp;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::connection::{self, Link};
use crate::listener::Accepted;
use crate::shared::Shared;

/// All workers. Dropping it lets them finish what they have and end.
#[derive(Debug)]
pub(crate) struct Workers {
    doors: Doors,
    threads: Vec<JoinHandle<()>>,
    /// One message from each thread as it ends; closed once all have.
    ended: mpsc::UnboundedReceiver<()>,
    cut: watch::Sender<bool>,
}

/// Where connections are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Doors(Arc<[Door]>);

#[derive(Debug)]
struct Door {
    // Not bounded here: the limit on connections in all bounds it.
    connections: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts so many threads.
    pub(crate) fn start<A>(
        count: usize,
        app: &Arc<A>,
        shared: &Arc<Shared>,
        shutdown: &watch::Receiver<bool>,
    ) -> io::Result<Self>
    where
        A: HttpServerApp + Send + Sync + 'static,
    {
        let (cut, cut_signal) = watch::channel(false);
        let (end, ended) = mpsc::unbounded_channel();
        let (mut doors, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (connections, incoming) = mpsc::unbounded_channel();
            let load = Arc::new(AtomicUsize::new(0));
            let end = Ending(end.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let link = Arc::new(Link {
                app: Arc::clone(app),
                shared: Arc::clone(shared),
                shutdown: shutdown.clone(),
                tracker: TaskTracker::new(),
            });
            let work = work(incoming, Arc::clone(&load), link, cut_signal.clone());
            let thread = std::thread::Builder::new().name(format!("sluice-serve-{number}")).spawn(move || {
                runtime.block_on(work);
                // Dropping the runtime drops every task, and with it the socket, of what was cut.
                drop(runtime);
                drop(end);
            })?;
            doors.push(Door { connections, load });
            threads.push(thread);
        }
        Ok(Self { doors: Doors(doors.into()), threads, ended, cut })
    }

    pub(crate) fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Returns when a worker has ended, which none does by itself.
    pub(crate) async fn any_ended(&mut self) {
        self.ended.recv().await;
    }

    /// Cuts what is still open, and joins the threads.
    pub(crate) async fn end(mut self) {
        self.cut.send_replace(true);
        drop(self.doors);
        while self.ended.recv().await.is_some() {}
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }
}

impl Doors {
    /// Hands a connection to the worker that has the fewest.
    pub(crate) fn hand_in(&self, accepted: Accepted) {
        let fewest = self.0.iter().min_by_key(|door| door.load.load(Ordering::Relaxed));
        if let Some(door) = fewest {
            door.load.fetch_add(1, Ordering::Relaxed);
            if door.connections.send(accepted).is_err() {
                tracing::error!("a connection was dropped: its serving thread has ended");
            }
        }
    }
}

/// What a worker's thread does until it is cut, or nobody can hand anything in and all is served.
async fn work<A>(
    mut incoming: mpsc::UnboundedReceiver<Accepted>,
    load: Arc<AtomicUsize>,
    link: Arc<Link<A>>,
    mut cut: watch::Receiver<bool>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let serve = async {
        while let Some(accepted) = incoming.recv().await {
            let (link, load) = (Arc::clone(&link), Load(Arc::clone(&load)));
            let tracker = link.tracker.clone();
            tracker.spawn(async move {
                let _load = load;
                connection::serve(accepted, link).await;
            });
        }
        link.tracker.close();
        link.tracker.wait().await;
    };
    tokio::select! {
        () = serve => {}
        // An error means that the owner is gone without a word: let what is open finish.
        Ok(_) = cut.wait_for(|cut| *cut) => {}
    }
}

/// Says that a thread has ended, also if it panics.
struct Ending(mpsc::UnboundedSender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // An error means that nobody waits.
        let _ = self.0.send(());
    }
}

/// One of a worker's connections.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
