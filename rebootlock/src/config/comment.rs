//! Comments in configuration that a program writes for people.

/// Comments are no wider than this.
const WIDTH: usize = 100;

/// `text` as lines of a comment that begins with `first`; none is ended by what came from outside.
pub fn comment(first: &str, text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(plain).collect();
    let mut lines = String::new();
    let mut line = format!("# {first}");
    let mut is_empty = true;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = format!("# {}", " ".repeat(first.len()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_folded_under_its_beginning_and_no_line_escapes() {
        let text = comment("- ", &format!("{} b\n[store]", "a".repeat(95)));
        assert_eq!(text, format!("# - {}\n#   b [store]\n", "a".repeat(95)));
        assert!(text.lines().all(|line| line.starts_with("# ")));
    }
}
