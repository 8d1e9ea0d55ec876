//! What the kernel's log says of a kill for want of memory: pure. The lines are those of `mm/oom_kill.c`, in its present words
//! and in those from before version 5.0.

/// Who was killed because the machine was out of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victim {
    /// Name and number, if the log says them.
    pub(crate) process: Option<(String, u32)>,
}

/// What has been read of a kill whose last line is still to come.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    begun: Option<Kill>,
}

#[derive(Debug, Default)]
struct Kill {
    /// A group was at its own bound.
    of_group: bool,
}

impl Parser {
    /// Takes the next line; gives the victim if it ends the report of a kill for want of the machine's memory. Kills of a group
    /// at its bound are the containers' own affair.
    pub(crate) fn line(&mut self, line: &str) -> Option<Victim> {
        let text = kernels_own(line)?;
        if text.contains("invoked oom-killer:") {
            self.begun = Some(Kill::default());
            return None;
        }
        let kill = self.begun.as_mut()?;
        if let Some(summary) = text.split_once("oom-kill:constraint=").map(|(_, rest)| rest) {
            // Of a machine's want there is no group: `global_oom`.
            kill.of_group = group(summary, "oom_memcg=").is_some_and(|group| group != "/");
            return None;
        }
        if let Some((_, group)) = text.split_once(" killed as a result of limit of ") {
            kill.of_group = text.contains("Task in ") && group.trim() != "/";
            return None;
        }
        let (_, rest) = text.split_once("Killed process ")?;
        let kill = self.begun.take()?;
        (!kill.of_group).then(|| Victim { process: process(rest) })
    }
}

/// The text of a record, `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT`, if the kernel itself wrote it. Programs may write to the log too,
/// and lines that begin with a blank belong to the record before.
fn kernels_own(line: &str) -> Option<&str> {
    let (head, text) = line.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // The facility is above the three bits of the level; zero is the kernel.
    (priority >> 3 == 0).then_some(text)
}

fn group<'a>(summary: &'a str, key: &str) -> Option<&'a str> {
    summary.split(',').find_map(|field| field.strip_prefix(key))
}

/// `12 (name) ...`; a name may have parentheses of its own.
fn process(text: &str) -> Option<(String, u32)> {
    let (pid, rest) = text.split_once(" (")?;
    let end = rest.rfind(')')?;
    Some((rest[..end].to_owned(), pid.trim_end_matches(',').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: &[Option<(&str, u32)>]) {
        let mut parser = Parser::default();
        let seen: Vec<_> = lines.iter().filter_map(|line| parser.line(line)).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|process| Victim { process: process.map(|(name, pid)| (name.to_owned(), pid)) })
            .collect();
        assert_eq!(seen, expected);
    }

    const BEGUN: &str =
        "4,100,5,-;java invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";

    #[test]
    fn the_machines_want() {
        let global = "6,101,5,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/user.slice,task=(a) b,pid=42,uid=0";
        let killed = "3,102,5,-;Out of memory: Killed process 42 ((a) b) total-vm:1kB, anon-rss:2kB, UID:0 oom_score_adj:0";
        check(&[BEGUN, "4,1,5,-;Mem-Info:", " SUBSYSTEM=x", global, killed], &[Some(("(a) b", 42))]);
        // One report of each.
        check(&[BEGUN, killed, killed, BEGUN, killed], &[Some(("(a) b", 42)); 2]);
        check(&[killed], &[]);
        // As old kernels put it.
        let old = "3,102,5,-;Killed process 42, UID 0, (b) total-vm:1kB";
        check(&[BEGUN, old], &[None]);
    }

    #[test]
    fn a_groups_want_is_not_the_machines() {
        let killed = "3,102,5,-;Memory cgroup out of memory: Killed process 42 (b) total-vm:1kB";
        let of = |group: &str| {
            format!(
                "6,101,5,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={group},task_memcg=/kubepods/x,task=b,pid=42,uid=0"
            )
        };
        check(&[BEGUN, &of("/kubepods/x"), killed], &[]);
        check(&[BEGUN, &of("/"), killed], &[Some(("b", 42))]);
        let old = |group: &str| format!("6,101,5,-;Task in /a killed as a result of limit of {group}");
        check(&[BEGUN, &old("/a"), killed], &[]);
        check(&[BEGUN, &old("/"), killed], &[Some(("b", 42))]);
    }

    #[test]
    fn what_programs_write_is_not_believed() {
        check(&[BEGUN, "12,102,5,-;Killed process 42 (b)"], &[]);
        check(&["12,1,5,-;sh invoked oom-killer: x", "3,102,5,-;Killed process 42 (b)"], &[]);
    }
}
