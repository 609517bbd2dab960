//! From the text of a template to what it says.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::Value;

/// Deeper than any address needs, and shallow enough for every stack.
const DEEPEST: usize = 50;

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    Block { block: Block, pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    If,
    With,
    Range,
}

/// Commands; each gets what the one before it makes as its last argument.
pub(super) type Pipe = Vec<Vec<Operand>>;

#[derive(Debug)]
pub(super) enum Operand {
    /// Fields of fields.
    Chain(Start, Vec<String>),
    Constant(Value),
    Function(String),
}

#[derive(Debug)]
pub(super) enum Start {
    Dot,
    Root,
    Parentheses(Pipe),
}

/// Text, or what stands between two pairs of braces.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `.`, `.A.B`, or the fields of what stands right before.
    Fields(Vec<String>, /* right after something */ bool),
    Root,
    Constant(Value),
    Pipe,
    Open,
    Close,
}

pub(super) fn parse(template: &str) -> Result<Vec<Node>, String> {
    let mut pieces = pieces(template)?.into_iter().peekable();
    let (nodes, end) = nodes(&mut pieces, 0)?;
    match end {
        Last::OfTemplate => Ok(nodes),
        Last::End => Err("`end` without a beginning".to_owned()),
        Last::Else(_) => Err("`else` without a beginning".to_owned()),
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest, mut trim) = (Vec::new(), template, false);
    loop {
        let (text, action) = match rest.split_once("{{") {
            Some((text, action)) => (text, Some(action)),
            None => (rest, None),
        };
        let blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let mut text = if trim { text.trim_start_matches(blank) } else { text };
        let mut after = action.unwrap_or_default();
        if let Some(trimming) = after.strip_prefix('-').filter(|rest| rest.starts_with(blank)) {
            (text, after) = (text.trim_end_matches(blank), trimming);
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        if action.is_none() {
            return Ok(pieces);
        }
        let inner = after.trim_start_matches(blank);
        let (left, spaced) = if let Some(comment) = inner.strip_prefix("/*") {
            let (_, left) = comment.split_once("*/").ok_or("a comment is not closed")?;
            let closing = left.trim_start_matches(blank);
            (closing, closing.len() < left.len())
        } else {
            let (tokens, left, spaced) = tokens(inner)?;
            pieces.push(Piece::Action(tokens));
            (left, spaced)
        };
        // With or without trimming what follows.
        let trimmed = left.strip_prefix("-}}").filter(|_| spaced);
        trim = trimmed.is_some();
        rest = trimmed.or_else(|| left.strip_prefix("}}")).ok_or("an action is not closed")?;
    }
}

/// The tokens of an action, what comes after them, and whether a blank stands in between.
fn tokens(text: &str) -> Result<(Vec<Token>, &str, bool), String> {
    let (mut tokens, mut rest, mut blank) = (Vec::new(), text, true);
    loop {
        if rest.starts_with("}}") || (blank && rest.starts_with("-}}")) {
            return Ok((tokens, rest, blank));
        }
        let Some(c) = rest.chars().next() else {
            return Err("an action is not closed".to_owned());
        };
        let after = &rest[c.len_utf8()..];
        let was_blank = std::mem::replace(&mut blank, false);
        rest = match c {
            ' ' | '\t' | '\r' | '\n' => {
                blank = true;
                after
            }
            '|' => {
                tokens.push(Token::Pipe);
                after
            }
            '(' => {
                tokens.push(Token::Open);
                after
            }
            ')' => {
                tokens.push(Token::Close);
                after
            }
            '$' => {
                if after.starts_with(is_of_name) {
                    return Err("variables are not served here".to_owned());
                }
                tokens.push(Token::Root);
                after
            }
            '.' => {
                let (mut names, mut left) = (Vec::new(), rest);
                while let Some(name) = left.strip_prefix('.') {
                    let (name, after) = name_of(name);
                    left = after;
                    if name.is_empty() {
                        if !names.is_empty() {
                            return Err("a field has no name".to_owned());
                        }
                        break;
                    }
                    names.push(name.to_owned());
                }
                tokens.push(Token::Fields(names, !was_blank));
                left
            }
            '"' => {
                let (value, left) = quoted(after)?;
                tokens.push(Token::Constant(Value::Text(value)));
                left
            }
            '`' => {
                let (value, left) = after.split_once('`').ok_or("a text is not closed")?;
                tokens.push(Token::Constant(Value::Text(value.to_owned())));
                left
            }
            c if c.is_ascii_digit()
                || (c == '-' && after.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
                let (number, left) = rest.split_at(c.len_utf8() + digits);
                let wrong = || format!("`{number}` cannot be understood");
                if left.starts_with('.') || left.starts_with(is_of_name) {
                    return Err(wrong());
                }
                tokens.push(Token::Constant(Value::Int(number.parse().map_err(|_| wrong())?)));
                left
            }
            c if is_of_name(c) => {
                let (word, left) = name_of(rest);
                tokens.push(match word {
                    "true" => Token::Constant(Value::Bool(true)),
                    "false" => Token::Constant(Value::Bool(false)),
                    "nil" => Token::Constant(Value::Nil),
                    word => Token::Word(word.to_owned()),
                });
                left
            }
            c => return Err(format!("`{c}` cannot be understood")),
        };
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn name_of(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_of_name(c)).unwrap_or(text.len()))
}

/// The rest of a text in double quotes, and what comes after it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\n' => break,
            '\\' => {
                let escaped = chars.next().map(|(_, c)| c);
                let digits = match escaped {
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    _ => 0,
                };
                value.push(match escaped {
                    Some(c @ ('"' | '\\')) => c,
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(_) if digits > 0 => {
                        let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                        let code =
                            u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits);
                        code.and_then(char::from_u32).ok_or("an escape cannot be understood")?
                    }
                    _ => return Err("an escape cannot be understood".to_owned()),
                });
            }
            c => value.push(c),
        }
    }
    Err("a text is not closed".to_owned())
}

/// What ended a run of nodes.
enum Last {
    OfTemplate,
    End,
    /// With what follows the word.
    Else(Vec<Token>),
}

fn nodes(
    pieces: &mut Peekable<IntoIter<Piece>>,
    depth: usize,
) -> Result<(Vec<Node>, Last), String> {
    if depth > DEEPEST {
        return Err("it is nested too deep".to_owned());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        match word {
            "end" => return Ok((nodes, Last::End)),
            "else" => return Ok((nodes, Last::Else(tokens.into_iter().skip(1).collect()))),
            "if" | "with" | "range" => nodes.push(block(tokens, pieces, depth)?),
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(format!("`{word}` is not served here"));
            }
            _ => nodes.push(Node::Action(whole_pipe(tokens)?)),
        }
    }
    Ok((nodes, Last::OfTemplate))
}

/// A block whose beginning is `tokens`.
fn block(
    tokens: Vec<Token>,
    pieces: &mut Peekable<IntoIter<Piece>>,
    depth: usize,
) -> Result<Node, String> {
    let block = match tokens.first() {
        Some(Token::Word(word)) if word == "if" => Block::If,
        Some(Token::Word(word)) if word == "with" => Block::With,
        _ => Block::Range,
    };
    let pipe = whole_pipe(tokens.into_iter().skip(1).collect())?;
    let (then, end) = nodes(pieces, depth + 1)?;
    let otherwise = match end {
        Last::OfTemplate => return Err("`end` is missing".to_owned()),
        Last::End => Vec::new(),
        Last::Else(more) if more.is_empty() => match nodes(pieces, depth + 1)? {
            (otherwise, Last::End) => otherwise,
            (_, Last::OfTemplate) => return Err("`end` is missing".to_owned()),
            (_, Last::Else(_)) => return Err("`else` without a beginning".to_owned()),
        },
        // Its end is the end of both.
        Last::Else(more) => match more.first() {
            Some(Token::Word(word)) if matches!(word.as_str(), "if" | "with") => {
                if depth + 1 > DEEPEST {
                    return Err("it is nested too deep".to_owned());
                }
                vec![self::block(more, pieces, depth + 1)?]
            }
            _ => return Err("what follows `else` cannot be understood".to_owned()),
        },
    };
    Ok(Node::Block { block, pipe, then, otherwise })
}

fn whole_pipe(tokens: Vec<Token>) -> Result<Pipe, String> {
    let mut tokens = tokens.into_iter().peekable();
    let pipe = pipe(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipe),
        Some(_) => Err("a parenthesis is closed that was not opened".to_owned()),
    }
}

fn pipe(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Pipe, String> {
    if depth > DEEPEST {
        return Err("it is nested too deep".to_owned());
    }
    let (mut pipe, mut command) = (Vec::new(), Vec::new());
    loop {
        match tokens.peek() {
            None | Some(Token::Close | Token::Pipe) => {
                if command.is_empty() {
                    return Err("an action is empty".to_owned());
                }
                pipe.push(std::mem::take(&mut command));
                if tokens.next_if_eq(&Token::Pipe).is_none() {
                    return Ok(pipe);
                }
            }
            Some(_) => command.push(operand(tokens, depth)?),
        }
    }
}

fn operand(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Operand, String> {
    let start = match tokens.next() {
        Some(Token::Constant(value)) => return Ok(Operand::Constant(value)),
        Some(Token::Word(word)) => return Ok(Operand::Function(word)),
        Some(Token::Fields(names, _)) => return Ok(Operand::Chain(Start::Dot, names)),
        Some(Token::Root) => Start::Root,
        Some(Token::Open) => {
            let inner = pipe(tokens, depth + 1)?;
            match tokens.next() {
                Some(Token::Close) => Start::Parentheses(inner),
                _ => return Err("a parenthesis is not closed".to_owned()),
            }
        }
        Some(Token::Pipe | Token::Close) | None => return Err("an action is empty".to_owned()),
    };
    let follows = |token: &Token| matches!(token, Token::Fields(names, true) if !names.is_empty());
    match tokens.next_if(follows) {
        Some(Token::Fields(names, _)) => Ok(Operand::Chain(start, names)),
        _ => Ok(Operand::Chain(start, Vec::new())),
    }
}
