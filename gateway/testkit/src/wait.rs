//! Bounded waiting.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

/// The longest that anything in the kit waits, unless a method says otherwise.
///
/// Generous, since tests share two cores with compilers; a test that meets it has failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long [`eventually`] pauses between two looks at something that has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Awaits `what` for at most [`DEADLINE`].
///
/// # Panics
/// Names `waiting_for` if it does not happen in time.
pub async fn within<T>(waiting_for: impl Display, what: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, what).await {
        Ok(value) => value,
        Err(_) => panic!("waited {DEADLINE:?} in vain for {waiting_for}"),
    }
}

/// Looks until `look` gives a value, for what cannot signal: a figure in `/metrics`, a file, a socket table.
///
/// # Panics
/// Names `waiting_for` if no value comes within [`DEADLINE`].
pub async fn eventually<T, F>(waiting_for: impl Display, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(waiting_for, async {
        loop {
            if let Some(value) = look().await {
                return value;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await
}
