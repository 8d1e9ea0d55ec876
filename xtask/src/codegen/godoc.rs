//! Go's comments as the descriptions that OpenAPI makes of them, from what prost wrote of the comments.

/// One description of the lines of a comment: lines of a paragraph are joined, indented lines stay lines, markers (`+optional`),
/// notes (`TODO`) and all below a rule (`---`) are left out.
pub(super) fn description(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        // The first space stands between the slashes and the text.
        let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
        let words = line.trim_start();
        if words == "---" {
            break;
        }
        if words.starts_with('+') || words.starts_with("TODO") {
            continue;
        }
        if words.is_empty() {
            drop_space(&mut text);
            text.push_str("\n\n");
        } else if line.starts_with([' ', '\t']) {
            drop_space(&mut text);
            // prost indents by one more than the comment did.
            text.push('\n');
            text.push_str(&line[1..]);
            text.push('\n');
        } else {
            text.push_str(line);
            text.push(' ');
        }
    }
    without_links(text.trim_end().trim_start_matches('\n'))
}

fn drop_space(text: &mut String) {
    if text.ends_with([' ', '\n']) {
        text.pop();
    }
}

/// Addresses without the angle brackets that make them links.
fn without_links(text: &str) -> String {
    let mut parts = text.split("<http");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str("http");
        plain.push_str(&part.replacen('>', "", 1));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::description;

    #[track_caller]
    fn check(comment: &str, wanted: &str) {
        let lines: Vec<String> = comment.lines().map(|line| format!(" {line}")).collect();
        assert_eq!(description(&lines), wanted);
    }

    #[test]
    fn paragraphs_are_joined_and_lists_kept() {
        check("A selector.\nDefaults to\neverything.\n+optional", "A selector. Defaults to everything.");
        check(
            "One.\n\nSee <https://a.example/b>\nfor more.\n+k8s:x",
            "One.\n\nSee https://a.example/b for more.",
        );
        check("Values:\n   - one\n   - two\nand so on\n---\nnotes", "Values:\n  - one\n  - two\nand so on");
        check("TODO: away\nText", "Text");
    }
}
