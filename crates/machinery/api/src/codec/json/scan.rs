//! The JSON grammar: tokens, skipping, and where it breaks in Go's words.

use std::borrow::Cow;

/// How deep skipped text may nest: Go's limit.
const MAX_SKIPPED_DEPTH: usize = 10_000;

/// Where the text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyntaxError {
    /// The character at this offset does not belong there; the words say where "there" is.
    Unexpected(usize, &'static str),
    /// The text ends too early.
    End,
    /// Too many levels.
    TooDeep,
}

impl SyntaxError {
    /// The error as Go words it.
    pub(crate) fn message(self, text: &str) -> String {
        match self {
            SyntaxError::End => "unexpected end of JSON input".to_owned(),
            SyntaxError::TooDeep => "exceeded max depth".to_owned(),
            SyntaxError::Unexpected(at, context) => {
                let byte = text.as_bytes().get(at).copied().unwrap_or(0);
                let shown = match byte {
                    b'\'' => "'\\''".to_owned(),
                    b'"' => "'\"'".to_owned(),
                    0x20..=0x7e => format!("'{}'", char::from(byte).to_string().replace('\\', "\\\\")),
                    b'\n' => "'\\n'".to_owned(),
                    b'\r' => "'\\r'".to_owned(),
                    b'\t' => "'\\t'".to_owned(),
                    0x00..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
                    // Go takes the byte for a character of its own.
                    0x80..=0x9f => format!("'\\u{byte:04x}'"),
                    _ => format!("'{}'", char::from(byte)),
                };
                format!("invalid character {shown} {context}")
            }
        }
    }
}

/// A place in the text.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

type Result<T> = std::result::Result<T, SyntaxError>;

const VALUE: &str = "looking for beginning of value";

impl<'a> Scanner<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Scanner { text, at: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn unexpected<T>(&self, context: &'static str) -> Result<T> {
        Err(if self.at < self.text.len() {
            SyntaxError::Unexpected(self.at, context)
        } else {
            SyntaxError::End
        })
    }

    /// The first character of the value that must follow.
    pub(crate) fn peek(&mut self) -> Result<u8> {
        self.space();
        match self.byte() {
            Some(byte @ (b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')) => Ok(byte),
            _ => self.unexpected(VALUE),
        }
    }

    /// Steps over the bracket just peeked at.
    pub(crate) fn open(&mut self, bracket: u8) {
        debug_assert_eq!(self.byte(), Some(bracket));
        self.at += 1;
    }

    /// The next key of an object and its colon; `None` at the closing brace. `first` starts out true.
    pub(crate) fn key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>> {
        const KEY: &str = "looking for beginning of object key string";
        self.space();
        let is_first = std::mem::take(first);
        match self.byte() {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !is_first => {
                self.at += 1;
                self.space();
            }
            Some(b'"') if is_first => {}
            _ => return self.unexpected(if is_first { KEY } else { "after object key:value pair" }),
        }
        if self.byte() != Some(b'"') {
            return self.unexpected(KEY);
        }
        let key = self.string()?;
        self.space();
        if self.byte() != Some(b':') {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether another item of an array follows; steps over the comma or the closing bracket.
    pub(crate) fn item(&mut self, first: bool) -> Result<bool> {
        self.space();
        match self.byte() {
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            _ if first => Ok(true),
            _ => self.unexpected("after array element"),
        }
    }

    /// Nothing but space may follow.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { self.unexpected("after top-level value") }
    }

    /// The string whose opening quote was peeked at.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    let text = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(text));
                }
                b'\\' => return self.escaped(start).map(Cow::Owned),
                0x00..=0x1f => return self.unexpected("in string literal"),
                _ => self.at += 1,
            }
        }
        Err(SyntaxError::End)
    }

    /// The rest of a string with escapes, of which `start..at` is read.
    fn escaped(&mut self, start: usize) -> Result<String> {
        let mut text = self.text[start..self.at].to_owned();
        let mut run = self.at;
        loop {
            match self.byte().ok_or(SyntaxError::End)? {
                b'"' => {
                    text.push_str(&self.text[run..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => {
                    text.push_str(&self.text[run..self.at]);
                    self.at += 1;
                    text.push(self.escape()?);
                    run = self.at;
                }
                0x00..=0x1f => return self.unexpected("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char> {
        let escape = self.byte().ok_or(SyntaxError::End)?;
        let plain = match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return self.unexpected("in string escape code"),
        };
        self.at += 1;
        Ok(plain)
    }

    /// Four digits, and a second escape if they are half of a pair. Lone halves become U+FFFD, as in Go.
    fn unicode_escape(&mut self) -> Result<char> {
        let unit = self.hex4()?;
        if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.byte().ok_or(SyntaxError::End)?;
            let Some(digit) = char::from(digit).to_digit(16) else {
                return self.unexpected("in \\u hexadecimal character escape");
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    /// The number whose first character was peeked at.
    pub(crate) fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.unexpected("in numeric literal"),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            if !matches!(self.byte(), Some(b'0'..=b'9')) {
                return self.unexpected("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.byte(), Some(b'0'..=b'9')) {
                return self.unexpected("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) {
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// The boolean whose first character was peeked at.
    pub(crate) fn boolean(&mut self) -> Result<bool> {
        let value = self.byte() == Some(b't');
        self.literal()?;
        Ok(value)
    }

    fn literal(&mut self) -> Result<()> {
        let (word, expecting): (&[u8], [&'static str; 4]) = match self.byte() {
            Some(b't') => (
                b"rue",
                [
                    "in literal true (expecting 'r')",
                    "in literal true (expecting 'u')",
                    "in literal true (expecting 'e')",
                    "",
                ],
            ),
            Some(b'f') => (
                b"alse",
                [
                    "in literal false (expecting 'a')",
                    "in literal false (expecting 'l')",
                    "in literal false (expecting 's')",
                    "in literal false (expecting 'e')",
                ],
            ),
            _ => (
                b"ull",
                [
                    "in literal null (expecting 'u')",
                    "in literal null (expecting 'l')",
                    "in literal null (expecting 'l')",
                    "",
                ],
            ),
        };
        self.at += 1;
        for (letter, context) in word.iter().zip(expecting) {
            if self.byte() != Some(*letter) {
                return self.unexpected(context);
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Steps over the value that follows, however deep, without recursion.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    open.push(bracket);
                    if open.len() > MAX_SKIPPED_DEPTH {
                        return Err(SyntaxError::TooDeep);
                    }
                    if !self.next_in(bracket, true)? {
                        open.pop();
                    } else {
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                b't' | b'f' | b'n' => self.literal()?,
                _ => {
                    self.number()?;
                }
            }
            // A value has ended: go on in the innermost open one that has more.
            loop {
                let Some(bracket) = open.last().copied() else { return Ok(()) };
                if self.next_in(bracket, false)? {
                    break;
                }
                open.pop();
            }
        }
    }

    fn next_in(&mut self, bracket: u8, first: bool) -> Result<bool> {
        if bracket == b'{' {
            let mut first = first;
            Ok(self.key(&mut first)?.is_some())
        } else {
            self.item(first)
        }
    }
}
