//! Questions under way, each asked once however many requests wait for its answer.
//!
//! A question is a task of the background runtime, so that the thread which serves a request does none of its work. It
//! lives as long as somebody waits for it: when the last request has gone away, the question is given up. An answer is for
//! those who were waiting when it came; who comes later asks anew, unless a cache knows the answer.
//!
//! So many requests may wait and no more, which bounds the questions too.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

/// The questions, by what they are about.
pub(crate) struct Flights<V> {
    table: Mutex<Table<V>>,
    seats: Semaphore,
    background: Handle,
}

struct Table<V> {
    flights: HashMap<Box<[u8]>, Flight<V>, RandomState>,
    next: u64,
}

struct Flight<V> {
    number: u64,
    waiting: usize,
    answer: watch::Receiver<Option<V>>,
    work: AbortHandle,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grounded {
    /// As many as may are waiting.
    Full,
    /// The question ended without an answer: the background is stopping.
    Lost,
}

/// An answer, and whether another request had asked for it already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landed<V> {
    pub(crate) answer: V,
    pub(crate) shared: bool,
}

impl<V: Clone + Send + Sync + 'static> Flights<V> {
    /// For at most `seats` requests at once, with questions on `background`.
    pub(crate) fn new(seats: usize, background: Handle) -> Self {
        let table = Table { flights: HashMap::default(), next: 0 };
        Self { table: Mutex::new(table), seats: Semaphore::new(seats), background }
    }

    /// The answer to the question about `key`, which `ask` asks where nobody does.
    pub(crate) async fn join<F>(&self, key: &[u8], ask: impl FnOnce() -> F) -> Result<Landed<V>, Grounded>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let _seat = self.seats.try_acquire().map_err(|_| Grounded::Full)?;
        let (place, mut receiver, shared) = self.board(key, ask);
        let answer = receiver.wait_for(Option::is_some).await.map(|answer| answer.clone());
        drop(place);
        match answer {
            Ok(Some(answer)) => Ok(Landed { answer, shared }),
            Ok(None) | Err(_) => Err(Grounded::Lost),
        }
    }

    /// The answer to a question that no other request can share.
    pub(crate) async fn alone<F>(&self, question: F) -> Result<Landed<V>, Grounded>
    where
        F: Future<Output = V> + Send + 'static,
    {
        /// Gives the question up when the request goes away.
        struct Abort(AbortHandle);
        impl Drop for Abort {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let _seat = self.seats.try_acquire().map_err(|_| Grounded::Full)?;
        let work = self.background.spawn(question);
        let _abort = Abort(work.abort_handle());
        work.await.map(|answer| Landed { answer, shared: false }).map_err(|_| Grounded::Lost)
    }

    /// Questions under way now.
    #[cfg(test)]
    fn under_way(&self) -> usize {
        self.table.lock().flights.len()
    }

    fn board<F>(&self, key: &[u8], ask: impl FnOnce() -> F) -> (Place<'_, V>, watch::Receiver<Option<V>>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut table = self.table.lock();
        // One that has landed and whose last passengers are getting off is not joined: its answer is not news.
        if let Some(flight) = table.flights.get_mut(key).filter(|flight| flight.answer.borrow().is_none())
            && flight.answer.has_changed().is_ok()
        {
            flight.waiting += 1;
            let (number, receiver) = (flight.number, flight.answer.clone());
            drop(table);
            return (Place { flights: self, key: key.into(), number }, receiver, true);
        }
        table.next += 1;
        let number = table.next;
        let (sender, receiver) = watch::channel(None);
        let question = ask();
        let work = self.background.spawn(async move {
            let answer = question.await;
            sender.send_replace(Some(answer));
        });
        let flight = Flight { number, waiting: 1, answer: receiver.clone(), work: work.abort_handle() };
        table.flights.insert(key.into(), flight);
        drop(table);
        (Place { flights: self, key: key.into(), number }, receiver, false)
    }
}

impl<V> std::fmt::Debug for Flights<V> {
    /// Without keys, which are credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.table.lock().flights.len()).finish_non_exhaustive()
    }
}

/// A request's place among those who wait for one answer.
struct Place<'f, V> {
    flights: &'f Flights<V>,
    key: Box<[u8]>,
    number: u64,
}

impl<V> Drop for Place<'_, V> {
    fn drop(&mut self) {
        let mut table = self.flights.table.lock();
        // Another number is another flight: ours has landed.
        let Some(flight) = table.flights.get_mut(&self.key).filter(|flight| flight.number == self.number) else {
            return;
        };
        flight.waiting -= 1;
        if flight.waiting == 0 {
            flight.work.abort();
            table.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    fn flights(seats: usize) -> Flights<u32> {
        Flights::new(seats, Handle::current())
    }

    #[tokio::test]
    async fn many_requests_share_one_question_and_each_gets_the_answer() {
        let (flights, asked) = (flights(100), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let asked = Arc::clone(&asked);
            async move {
                tokio::task::yield_now().await;
                asked.fetch_add(1, Ordering::SeqCst) + 1
            }
        };
        let answers = join_all((0..50).map(|_| flights.join(b"k", ask))).await;
        assert!(answers.iter().all(|landed| landed.as_ref().unwrap().answer == 1));
        assert_eq!(answers.iter().filter(|landed| landed.as_ref().unwrap().shared).count(), 49);
        assert_eq!(flights.under_way(), 0);
        let later = flights.join(b"k", ask).await.unwrap();
        assert_eq!(later, Landed { answer: 2, shared: false }, "an answer is not kept");
    }

    #[tokio::test]
    async fn a_question_ends_with_the_last_who_waits_and_not_with_the_first() {
        let (flights, go) = (flights(100), Arc::new(Notify::new()));
        let given_up = Arc::new(Notify::new());
        struct Tell(Arc<Notify>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let ask = || {
            let (go, tell) = (Arc::clone(&go), Tell(Arc::clone(&given_up)));
            async move {
                let _tell = tell;
                go.notified().await;
                7
            }
        };
        let short = Duration::from_millis(20);
        let (first, second) = tokio::join!(tokio::time::timeout(short, flights.join(b"k", ask)), async {
            let second = flights.join(b"k", ask);
            tokio::pin!(second);
            let early = tokio::time::timeout(short * 3, &mut second).await;
            assert!(early.is_err());
            go.notify_one();
            second.await
        });
        assert!(first.is_err(), "it went away");
        assert_eq!(second.unwrap().answer, 7, "the other was served all the same");
        given_up.notified().await;
        assert!(tokio::time::timeout(short, flights.join(b"k", ask)).await.is_err());
        given_up.notified().await;
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn so_many_may_wait_and_no_more() {
        let flights = flights(3);
        let short = Duration::from_millis(20);
        let asks = (0..5).map(|_| tokio::time::timeout(short, flights.join(b"k", std::future::pending)));
        let full = join_all(asks).await.into_iter().filter(|asked| matches!(asked, Ok(Err(Grounded::Full)))).count();
        assert_eq!(full, 2);
        assert_eq!(flights.alone(async { 1 }).await.unwrap().answer, 1);
    }

    #[tokio::test]
    async fn a_question_that_panics_loses_its_answer_and_nothing_else() {
        async fn boom() -> u32 {
            std::panic::resume_unwind(Box::new("boom"))
        }
        let flights = flights(3);
        assert_eq!(flights.join(b"k", boom).await, Err(Grounded::Lost));
        assert_eq!(flights.alone(boom()).await, Err(Grounded::Lost));
        assert_eq!(flights.join(b"k", || async { 2 }).await.unwrap().answer, 2);
    }
}
