//! How two texts differ, line by line, as upstream tells it in messages about what cannot change: a unified diff with three
//! lines of context, of lines that are matched by the longest run that both have, and so on to the left and right of it.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

const CONTEXT: usize = 3;

/// Texts as long as this are not matched by lines that are common in them.
const LONG: usize = 200;

/// How many pairs of equal lines are looked at. What is left of larger texts then is told as changed, for who writes them chooses
/// how often lines repeat, and this is quadratic in that.
const PAIRS: usize = 1 << 20;

/// A run of lines that both have: where it begins in each, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    old: usize,
    new: usize,
    length: usize,
}

/// What is between two runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    old: Range<usize>,
    new: Range<usize>,
}

/// The hunks in which they differ; empty where they do not.
pub(crate) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let mut text = String::new();
    let changes = changes(&old, &new);
    // Changes whose contexts touch are told together.
    for hunk in changes.chunk_by(|a, b| b.old.start - a.old.end <= 2 * CONTEXT) {
        tell(hunk, &old, &new, &mut text);
    }
    text
}

fn tell(hunk: &[Change], old: &[&str], new: &[&str], text: &mut String) {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
    let before = CONTEXT.min(first.old.start);
    let behind = CONTEXT.min(old.len() - last.old.end);
    let place = |range: Range<usize>| match range.len() {
        1 => format!("{}", range.start + 1),
        // Nothing is behind the line before it.
        0 => format!("{},0", range.start),
        length => format!("{},{length}", range.start + 1),
    };
    let olds = place(first.old.start - before..last.old.end + behind);
    let news = place(first.new.start - before..last.new.end + behind);
    let mut put = |sign: char, lines: &[&str]| {
        for line in lines {
            writeln!(text, "{sign}{line}").expect("text takes all");
        }
    };
    put('@', &[&format!("@ -{olds} +{news} @@")]);
    let mut at = first.old.start - before;
    for change in hunk {
        put(' ', &old[at..change.old.start]);
        put('-', &old[change.old.clone()]);
        put('+', &new[change.new.clone()]);
        at = change.old.end;
    }
    put(' ', &old[at..last.old.end + behind]);
}

fn changes(old: &[&str], new: &[&str]) -> Vec<Change> {
    let mut places: HashMap<&str, Vec<usize>, ahash::RandomState> = HashMap::default();
    for (index, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(index);
    }
    if new.len() >= LONG {
        places.retain(|_, found| found.len() <= new.len() / 100 + 1);
    }
    let (mut runs, mut pairs) = (Vec::new(), PAIRS);
    let mut open = vec![(0..old.len(), 0..new.len())];
    while let Some((left, right)) = open.pop() {
        let looked: usize = left.clone().map(|at| 1 + places.get(old[at]).map_or(0, Vec::len)).sum();
        let Some(rest) = pairs.checked_sub(looked) else { continue };
        pairs = rest;
        let run = longest(old, new, &places, &left, &right);
        if run.length == 0 {
            continue;
        }
        runs.push(run);
        open.push((left.start..run.old, right.start..run.new));
        open.push((run.old + run.length..left.end, run.new + run.length..right.end));
    }
    runs.sort_by_key(|run| run.old);
    runs.push(Run { old: old.len(), new: new.len(), length: 0 });
    let (mut changes, mut at) = (Vec::new(), (0, 0));
    for run in runs {
        if at != (run.old, run.new) {
            changes.push(Change { old: at.0..run.old, new: at.1..run.new });
        }
        at = (run.old + run.length, run.new + run.length);
    }
    changes
}

/// The longest run within these ranges that a line of `places` begins, the first of those equally long, and what is the same
/// before and behind it.
fn longest(
    old: &[&str],
    new: &[&str],
    places: &HashMap<&str, Vec<usize>, ahash::RandomState>,
    left: &Range<usize>,
    right: &Range<usize>,
) -> Run {
    let mut best = Run { old: left.start, new: right.start, length: 0 };
    // How long the run is that ends at a line of `new` and at the line of `old` before.
    let mut ending: HashMap<usize, usize, ahash::RandomState> = HashMap::default();
    for at in left.clone() {
        let mut next = HashMap::default();
        let found = places.get(old[at]).map_or(&[][..], Vec::as_slice);
        for &place in found.iter().filter(|place| right.contains(place)) {
            let before = place.checked_sub(1).and_then(|before| ending.get(&before));
            let length = before.copied().unwrap_or(0) + 1;
            next.insert(place, length);
            if length > best.length {
                best = Run { old: at + 1 - length, new: place + 1 - length, length };
            }
        }
        ending = next;
    }
    while best.old > left.start && best.new > right.start && old[best.old - 1] == new[best.new - 1] {
        best = Run { old: best.old - 1, new: best.new - 1, length: best.length + 1 };
    }
    while best.old + best.length < left.end
        && best.new + best.length < right.end
        && old[best.old + best.length] == new[best.new + best.length]
    {
        best.length += 1;
    }
    best
}

/// Dense JSON with a line for each member and item, a space deeper for each level.
pub(crate) fn indented(dense: &str) -> String {
    let mut text = String::with_capacity(dense.len() * 2);
    let (mut depth, mut quoted, mut escaped, mut last) = (0, false, false, ' ');
    for letter in dense.chars() {
        if !quoted && matches!(last, '{' | '[') && !matches!(letter, '}' | ']') {
            depth += 1;
            new_line(depth, &mut text);
        }
        match letter {
            _ if quoted => {
                quoted = escaped || letter != '"';
                escaped = !escaped && letter == '\\';
                text.push(letter);
                // What is within quotes opens nothing.
                last = '"';
                continue;
            }
            '"' => quoted = true,
            '}' | ']' if !matches!(last, '{' | '[') => {
                depth -= 1;
                new_line(depth, &mut text);
            }
            _ => {}
        }
        text.push(letter);
        match letter {
            ',' => new_line(depth, &mut text),
            ':' => text.push(' '),
            _ => {}
        }
        last = letter;
    }
    text
}

fn new_line(depth: usize, text: &mut String) {
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_items_have_lines() {
        assert_eq!(
            indented(r#"{"a":[],"b":{"c":[1,"{,:\""]}}"#),
            "{\n \"a\": [],\n \"b\": {\n  \"c\": [\n   1,\n   \"{,:\\\"\"\n  ]\n }\n}"
        );
    }

    #[test]
    fn texts_that_repeat_themselves_do_not_take_long() {
        // A hundred lines, each so often that it still counts: five hundred million pairs.
        let line = |index: usize| format!("{}\n", index * 7 % 100);
        let old: String = (0..50_000).map(line).collect();
        let new: String = (0..50_000).rev().map(line).collect();
        let told = unified(&old, &new);
        assert_eq!(told.lines().filter(|line| line.starts_with('-')).count(), 50_000);
    }

    #[track_caller]
    fn check(old: &str, new: &str, expected: &str) {
        let lines = |text: &str| text.replace(' ', "\n");
        assert_eq!(unified(&lines(old), &lines(new)), expected);
    }

    #[test]
    fn changes_are_told_with_what_is_around_them() {
        check("a b", "a b", "");
        check("1 2 3 4 5", "1 2 3 x 4 5", "@@ -1,5 +1,6 @@\n 1\n 2\n 3\n+x\n 4\n 5\n");
        check("1 2 3 4 5", "2 3 4 5", "@@ -1,4 +1,3 @@\n-1\n 2\n 3\n 4\n");
        check("a", "b", "@@ -1 +1 @@\n-a\n+b\n");
        check("", "b", "@@ -0,0 +1 @@\n+b\n");
        // Six lines between two changes are context of both, seven are not.
        check(
            "a 1 2 3 4 5 6 b",
            "A 1 2 3 4 5 6 B",
            "@@ -1,8 +1,8 @@\n-a\n+A\n 1\n 2\n 3\n 4\n 5\n 6\n-b\n+B\n",
        );
        check(
            "a 1 2 3 4 5 6 7 b",
            "A 1 2 3 4 5 6 7 B",
            "@@ -1,4 +1,4 @@\n-a\n+A\n 1\n 2\n 3\n@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+B\n",
        );
    }
}
