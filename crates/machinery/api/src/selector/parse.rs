//! The texts of selectors: tokens, the grammar, and the words of its errors.
//!
//! ```text
//! selector    = "" | requirement *( "," requirement )
//! requirement = [ "!" ] KEY [ ( "in" | "notin" ) "(" [ VALUE ] *( "," [ VALUE ] ) ")" | ( "=" | "==" | "!=" | ">" | "<" ) [ VALUE ] ]
//! ```

use std::collections::BTreeSet;

use super::{FieldRequirement, Operator, Requirement, SelectorError};
use crate::kinds::validate;

/// What upstream lists when an operator is expected.
const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Close,
    Open,
    Comma,
    Not,
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Word(&'a str),
}

impl<'a> Token<'a> {
    fn of(text: &'a str) -> Option<Self> {
        Some(match text {
            ")" => Token::Close,
            "(" => Token::Open,
            "," => Token::Comma,
            "!" => Token::Not,
            "==" => Token::DoubleEquals,
            "=" => Token::Equals,
            "!=" => Token::NotEquals,
            ">" => Token::Greater,
            "<" => Token::Less,
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ => return None,
        })
    }

    /// How the token is quoted in errors.
    fn literal(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Close => ")",
            Token::Open => "(",
            Token::Comma => ",",
            Token::Not => "!",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::Word(text) => text,
        }
    }

    /// `in` and `notin` are words where a key or value stands.
    fn as_word(self) -> Self {
        match self {
            Token::In => Token::Word("in"),
            Token::NotIn => Token::Word("notin"),
            other => other,
        }
    }
}

fn is_symbol(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Tokens are read on demand; one token of look-ahead suffices.
struct Tokens<'a> {
    text: &'a str,
    next: Token<'a>,
    rest: usize,
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        let mut tokens = Tokens { text, next: Token::End, rest: 0 };
        tokens.next = tokens.scan();
        tokens
    }

    fn peek(&self) -> Token<'a> {
        self.next.as_word()
    }

    /// Takes a token; `in` and `notin` stay operators.
    fn take_operator(&mut self) -> Token<'a> {
        let token = self.next;
        self.next = self.scan();
        token
    }

    fn take(&mut self) -> Token<'a> {
        self.take_operator().as_word()
    }

    fn scan(&mut self) -> Token<'a> {
        let bytes = self.text.as_bytes();
        while self.rest < bytes.len() && is_space(bytes[self.rest]) {
            self.rest += 1;
        }
        let start = self.rest;
        let Some(&first) = bytes.get(start) else { return Token::End };
        // A NUL byte ends the text, as it does upstream.
        if first == 0 {
            self.rest = bytes.len();
            return Token::End;
        }
        if !is_symbol(first) {
            let length = bytes[start..].iter().position(|&b| is_symbol(b) || is_space(b) || b == 0);
            self.rest = length.map_or(bytes.len(), |length| start + length);
            let word = &self.text[start..self.rest];
            return Token::of(word).unwrap_or(Token::Word(word));
        }
        // The longest run of symbols that is a token: `==` before `=`. Every symbol is a token by itself.
        for length in [2, 1] {
            let text = self.text.get(start..start + length).filter(|t| *t != "in");
            if let Some(token) = text.and_then(Token::of) {
                self.rest = start + length;
                return token;
            }
        }
        Token::End
    }
}

type Result<T> = std::result::Result<T, SelectorError>;

fn fail<T>(message: String) -> Result<T> {
    Err(SelectorError(message))
}

pub(super) fn label_selector(text: &str) -> Result<Vec<Requirement>> {
    let mut tokens = Tokens::new(text);
    let mut requirements = Vec::new();
    loop {
        match tokens.peek() {
            Token::End => return Ok(requirements),
            Token::Word(_) | Token::Not => {}
            other => {
                return fail(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    other.literal()
                ));
            }
        }
        let parsed = requirement(&mut tokens);
        requirements.push(parsed.map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?);
        match tokens.take() {
            Token::End => return Ok(requirements),
            Token::Comma => match tokens.peek() {
                Token::Word(_) | Token::Not => {}
                other => return fail(format!("found '{}', expected: identifier after ','", other.literal())),
            },
            other => return fail(format!("found '{}', expected: ',' or 'end of string'", other.literal())),
        }
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement> {
    let mut token = tokens.take();
    let negated = token == Token::Not;
    if negated {
        token = tokens.take();
    }
    let Token::Word(key) = token else {
        return fail(format!("found '{}', expected: identifier", token.literal()));
    };
    let faults = validate::qualified_name(key);
    if !faults.is_empty() {
        // Upstream's path is nil here, which prints so.
        return fail(format!("<nil>: Invalid value: {key:?}: {}", faults.join("; ")));
    }
    if negated {
        return Requirement::new(key, Operator::DoesNotExist, Vec::new());
    }
    if matches!(tokens.peek(), Token::End | Token::Comma) {
        return Requirement::new(key, Operator::Exists, Vec::new());
    }
    let operator = match tokens.take_operator() {
        Token::In => Operator::In,
        Token::NotIn => Operator::NotIn,
        Token::Equals => Operator::Equals,
        Token::DoubleEquals => Operator::DoubleEquals,
        Token::NotEquals => Operator::NotEquals,
        Token::Greater => Operator::GreaterThan,
        Token::Less => Operator::LessThan,
        other => return fail(format!("found '{}', expected: {BINARY_OPERATORS}", other.literal())),
    };
    let values = match operator {
        Operator::In | Operator::NotIn => value_set(tokens)?.into_iter().map(str::to_owned).collect(),
        _ => vec![exact_value(tokens)?.to_owned()],
    };
    Requirement::new(key, operator, values)
}

fn exact_value<'a>(tokens: &mut Tokens<'a>) -> Result<&'a str> {
    if matches!(tokens.peek(), Token::End | Token::Comma) {
        return Ok("");
    }
    match tokens.take() {
        Token::Word(value) => Ok(value),
        other => fail(format!("found '{}', expected: identifier", other.literal())),
    }
}

fn value_set<'a>(tokens: &mut Tokens<'a>) -> Result<BTreeSet<&'a str>> {
    match tokens.take() {
        Token::Open => {}
        other => return fail(format!("found '{}' expected: '('", other.literal())),
    }
    let mut values = BTreeSet::new();
    match tokens.peek() {
        Token::Close => {
            tokens.take();
            values.insert("");
            return Ok(values);
        }
        Token::Word(_) | Token::Comma => {}
        other => return fail(format!("found '{}', expected: ',', ')' or identifier", other.literal())),
    }
    // Empty values stand between commas and at either end: `(,a)`, `(a,,b)`, `(a,)`.
    loop {
        match tokens.take() {
            Token::Word(value) => {
                values.insert(value);
                match tokens.peek() {
                    Token::Comma => {}
                    Token::Close => break,
                    other => return fail(format!("found '{}', expected: ',' or ')'", other.literal())),
                }
            }
            Token::Comma => {
                if values.is_empty() {
                    values.insert("");
                }
                match tokens.peek() {
                    Token::Close => {
                        values.insert("");
                        break;
                    }
                    Token::Comma => {
                        values.insert("");
                    }
                    _ => {}
                }
            }
            other => return fail(format!("found '{}', expected: ',', or identifier", other.literal())),
        }
    }
    tokens.take();
    Ok(values)
}

pub(super) fn field_selector(text: &str) -> Result<Vec<FieldRequirement>> {
    let mut terms = split_terms(text);
    terms.sort_unstable();
    let mut requirements = Vec::new();
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let Some((field, equals, value)) = split_term(term) else {
            return fail(format!("invalid selector: '{text}'; can't understand '{term}'"));
        };
        requirements.push(FieldRequirement {
            field: field.to_owned(),
            value: unescape_field_value(value)?,
            equals,
        });
    }
    Ok(requirements)
}

/// Splits at commas that no backslash escapes; the backslashes stay.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// The field, whether it must be equal, and the escaped value; split at the first operator.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let bytes = term.as_bytes();
    for index in 0..bytes.len() {
        let (equals, length) = match (bytes[index], bytes.get(index + 1)) {
            (b'!', Some(b'=')) => (false, 2),
            (b'=', Some(b'=')) => (true, 2),
            (b'=', _) => (true, 1),
            _ => continue,
        };
        return Some((&term[..index], equals, &term[index + length..]));
    }
    None
}

fn unescape_field_value(text: &str) -> Result<String> {
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                Some(other) => {
                    return fail(format!("invalid field selector: invalid escape sequence: \\{other}"));
                }
                None => return fail("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                return fail(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(character)
                ));
            }
            other => value.push(other),
        }
    }
    Ok(value)
}

pub(super) fn escape_field_value(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
