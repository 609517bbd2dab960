//! `type = "http"`: open if a web server answers as expected.

use rebootlock::config::gate::HttpGate;
use rebootlock::http;
use serde_json::Value;

use super::{Verdict, access, answer};

/// A document that says how something is doing is not longer than this, in bytes.
const MAX_BODY: usize = 1024 * 1024;

pub(super) async fn ask(gate: &HttpGate) -> Verdict {
    let access = access(gate.ca_file.as_ref(), gate.bearer_token_file.as_ref());
    let limit = gate.expected.as_ref().map(|_| MAX_BODY);
    let reply = match http::get(&gate.url, &access, limit).await {
        Ok(reply) => reply,
        Err(error) => return Verdict::unknown(error.to_string()),
    };
    let status = reply.status().as_u16();
    if !gate.status.iter().any(|good| good.contains(status)) {
        let redirected = (300..400).contains(&status);
        let hint = if redirected { "; redirects are not followed" } else { "" };
        return Verdict::closed(format!("answers {status}{hint}"));
    }
    let Some(expected) = &gate.expected else { return Verdict::Open };
    let pointer = &expected.pointer;
    let document: Value = match serde_json::from_slice(reply.body()) {
        Ok(document) => document,
        Err(error) => return Verdict::unknown(format!("the answer is not JSON: {error}")),
    };
    match document.pointer(pointer) {
        Some(found) if equal(found, &expected.value) => Verdict::Open,
        Some(found) => {
            let found = answer::clean(&found.to_string(), 100);
            Verdict::closed(format!("{pointer} is {found}, not {}", expected.value))
        }
        None => Verdict::unknown(format!("there is no {pointer} in the answer")),
    }
}

/// 3 and 3.0 are one number, "3" is none.
fn equal(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Number(a), Value::Number(b)) => {
            a == b
                || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b && a.abs() < EXACT)
        }
        _ => found == expected,
    }
}

/// Beyond this, not every whole number has a floating-point one.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_compared_by_value_and_never_with_texts() {
        assert!(equal(&json!(3), &json!(3.0)) && equal(&json!("ok"), &json!("ok")));
        assert!(equal(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_993_i64)));
        assert!(!equal(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992.0)));
        assert!(!equal(&json!("3"), &json!(3)) && !equal(&json!(1), &json!(true)));
        assert!(!equal(&json!(null), &json!(false)));
    }
}
