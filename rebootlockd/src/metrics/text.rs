//! The two text formats Prometheus reads.

/// In which form figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What the node exporter and everything older than OpenMetrics reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// As HTTP names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client that sends this `Accept` header likes better; what every client can read if it
    /// likes neither or does not care.
    pub fn liked(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q" | "Q", q)) => weight = q.trim().parse().unwrap_or(0.0),
                    Some(("version", named)) => version = Some(named.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            match (name.as_str(), version.as_deref()) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    open = weight.max(open);
                }
                ("text/plain", None | Some("0.0.4")) => plain = weight.max(plain),
                _ => {}
            }
        }
        if open > plain { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Says in the older format what `open` says in OpenMetrics, as far as we write it: there the
/// description of a counter has the counter's whole name, and no line has a meaning of its own
/// after a `#` other than `HELP` and `TYPE`.
pub(super) fn to_prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if line.starts_with("# HELP ") {
            // Its type comes next, and decides on the name.
            help = Some(line);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some(words) = help.take().and_then(|help| {
                help.strip_prefix("# HELP ")?.strip_prefix(name)?.strip_prefix(' ')
            }) {
                text.extend(["# HELP ", name, suffix, " ", words, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_it_likes_better() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                     encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;\
                     escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [prometheus, newer, "Application/OpenMetrics-Text"] {
            assert_eq!(Format::liked(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "text/plain, application/openmetrics-text; q=0.5",
            "application/openmetrics-text; q=0",
            "application/openmetrics-text; q=nonsense",
            "application/openmetrics-text; version=2.0.0",
        ] {
            assert_eq!(Format::liked(accept), Format::Prometheus, "{accept}");
        }
    }

    #[test]
    fn counters_are_described_by_their_whole_name() {
        let open = "# HELP a_b Words: a_b.\n# TYPE a_b counter\na_b_total{x=\"# y\"} 1\n\
                    # HELP g G.\n# TYPE g gauge\n# UNIT g seconds\ng 2\n# EOF\n";
        let text = "# HELP a_b_total Words: a_b.\n# TYPE a_b_total counter\na_b_total{x=\"# y\"} 1\n\
                    # HELP g G.\n# TYPE g gauge\ng 2\n";
        assert_eq!(to_prometheus(open), text);
    }
}
