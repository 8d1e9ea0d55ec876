//! Gauges that are worked out when somebody asks for them, from what a controller's caches show then.

use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

type Answer = Arc<dyn Fn(&mut String) + Send + Sync>;

#[derive(Clone)]
struct Teller {
    name: &'static str,
    answer: Answer,
    /// Where it began: tests run beside each other in one process, each on a thread of its own, and hear only themselves.
    thread: ThreadId,
}

/// Those who have something to tell, the youngest last.
static TELLERS: Mutex<Vec<Teller>> = Mutex::new(Vec::new());

/// Somebody tells of his gauges until this is dropped.
#[must_use = "nothing is told once this is dropped"]
pub(crate) struct Telling(Answer);

/// From now on `answer` writes rows whenever all are asked. Of several of one name the youngest is heard.
pub(crate) fn tell(name: &'static str, answer: impl Fn(&mut String) + Send + Sync + 'static) -> Telling {
    let answer: Answer = Arc::new(answer);
    TELLERS.lock().push(Teller { name, answer: answer.clone(), thread: thread::current().id() });
    Telling(answer)
}

impl Drop for Telling {
    fn drop(&mut self) {
        TELLERS.lock().retain(|teller| !Arc::ptr_eq(&teller.answer, &self.0));
    }
}

/// Asks all.
pub(super) fn collect(out: &mut String) {
    // Not under the lock: caches are read.
    let is_heard = |teller: &&Teller| !cfg!(test) || teller.thread == thread::current().id();
    let tellers: Vec<_> = TELLERS.lock().iter().filter(is_heard).cloned().collect();
    for (at, teller) in tellers.iter().enumerate() {
        if tellers[at + 1..].iter().all(|younger| younger.name != teller.name) {
            (teller.answer)(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard() -> String {
        let mut out = String::new();
        collect(&mut out);
        out
    }

    #[test]
    fn the_youngest_of_a_name_is_heard_while_it_lives() {
        let elder = tell("one", |out| out.push_str("told 1"));
        assert_eq!(heard(), "told 1");
        let younger = tell("one", |out| out.push_str("told 2"));
        assert_eq!(heard(), "told 2");
        let other = tell("two", |out| out.push_str(" and 3"));
        assert_eq!(heard(), "told 2 and 3");
        drop((younger, other));
        assert_eq!(heard(), "told 1");
        drop(elder);
        assert_eq!(heard(), "");
    }
}
