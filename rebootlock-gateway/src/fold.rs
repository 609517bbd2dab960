//! Names as programs in Go compare them when they read JSON or TOML: whatever their case.

/// The same for all spellings of a name that Go takes for one. Two characters beyond ASCII are spellings of
/// letters there.
pub(crate) fn folded(name: &str) -> String {
    let plain = |c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(plain).collect()
}
