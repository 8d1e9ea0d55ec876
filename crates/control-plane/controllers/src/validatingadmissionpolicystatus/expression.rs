//! Common Expression Language as a tree with places. Only what the checker looks at is kept of values.

/// How deep expressions may be nested, chains of operators and selections included: deeper ones are refused instead of exhausting
/// the stack of whoever walks through them. cel-go stops at 250.
const DEEPEST: usize = 100;
/// How many brackets and conditions may be open at once: each takes the parser a dozen calls.
const NESTED: usize = 40;

/// Something wrong at a place of the text, counted in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub(crate) at: usize,
    pub(crate) message: String,
}

/// A part of an expression, with its place: of an operator where it stands, of a selection its dot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) expr: Expr,
    /// How many nodes lie below each other here.
    depth: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Name(String),
    /// `of.field`; `optional` for `of.?field`.
    Select {
        of: Box<Node>,
        field: String,
        optional: bool,
    },
    /// Named as cel-go names them, such as `_+_`.
    Operator {
        name: &'static str,
        of: Vec<Node>,
    },
    Call {
        on: Option<Box<Node>>,
        function: String,
        arguments: Vec<Node>,
    },
    List(Vec<Node>),
    /// Keys and values in turn.
    Map(Vec<Node>),
    /// The values of a message's fields.
    Message(Vec<Node>),
}

/// Reads an expression.
pub(crate) fn parse(text: &str) -> Result<Node, Issue> {
    let mut parser = Parser { text: text.chars().collect(), at: 0, depth: 0 };
    let node = parser.expression()?;
    parser.skip_space();
    match parser.text.get(parser.at) {
        None => Ok(node),
        Some(_) => Err(parser.unexpected()),
    }
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

type Parsed = Result<Node, Issue>;
/// Symbols with the names of their operators. Longer ones before those they begin with.
type Level = &'static [(&'static str, &'static str)];

const LEVELS: [Level; 5] = [
    &[("||", "_||_")],
    &[("&&", "_&&_")],
    &[
        ("<=", "_<=_"),
        (">=", "_>=_"),
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("<", "_<_"),
        (">", "_>_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

fn deepest(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.depth).max().unwrap_or(0)
}

impl Parser {
    fn issue(&self, message: impl Into<String>) -> Issue {
        Issue { at: self.at, message: format!("Syntax error: {}", message.into()) }
    }

    fn node(&self, at: usize, expr: Expr) -> Parsed {
        let below = match &expr {
            Expr::Select { of, .. } => of.depth,
            Expr::Operator { of: parts, .. }
            | Expr::List(parts)
            | Expr::Map(parts)
            | Expr::Message(parts) => deepest(parts),
            Expr::Call { on, arguments, .. } => deepest(arguments).max(on.as_ref().map_or(0, |on| on.depth)),
            _ => 0,
        };
        if below >= DEEPEST {
            return Err(self.too_deep());
        }
        Ok(Node { at, expr, depth: below + 1 })
    }

    fn too_deep(&self) -> Issue {
        self.issue("expression recursion limit exceeded")
    }

    fn unexpected(&self) -> Issue {
        match self.text.get(self.at) {
            Some(character) => self.issue(format!("unexpected {character:?}")),
            None => self.issue("unexpected end"),
        }
    }

    fn skip_space(&mut self) {
        loop {
            while self.text.get(self.at).is_some_and(|it| it.is_whitespace()) {
                self.at += 1;
            }
            if !self.sees("//") {
                return;
            }
            while self.text.get(self.at).is_some_and(|it| *it != '\n') {
                self.at += 1;
            }
        }
    }

    fn sees(&self, symbol: &str) -> bool {
        symbol.chars().enumerate().all(|(offset, it)| self.text.get(self.at + offset) == Some(&it))
    }

    /// Takes a symbol if it comes next; returns its place. A word must end where it ends.
    fn take(&mut self, symbol: &str) -> Option<usize> {
        self.skip_space();
        let end = self.at + symbol.chars().count();
        let word = symbol.starts_with(char::is_alphabetic);
        let goes_on = self.text.get(end).is_some_and(|it| it.is_alphanumeric() || *it == '_');
        if !self.sees(symbol) || (word && goes_on) {
            return None;
        }
        let at = std::mem::replace(&mut self.at, end);
        Some(at)
    }

    fn expect(&mut self, symbol: &str) -> Result<usize, Issue> {
        self.take(symbol).ok_or_else(|| self.unexpected())
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > NESTED {
            return Err(self.too_deep());
        }
        let condition = self.binary(0)?;
        let node = match self.take("?") {
            None => condition,
            Some(at) => {
                let yes = self.binary(0)?;
                self.expect(":")?;
                let no = self.expression()?;
                self.node(at, Expr::Operator { name: "_?_:_", of: vec![condition, yes, no] })?
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(symbols) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = symbols.iter().find_map(|(symbol, name)| Some((self.take(symbol)?, *name)));
            let Some((at, name)) = found else { return Ok(left) };
            let right = self.binary(level + 1)?;
            left = self.node(at, Expr::Operator { name, of: vec![left, right] })?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let mut signs = Vec::new();
        loop {
            self.skip_space();
            let number = self.text.get(self.at + 1).is_some_and(char::is_ascii_digit);
            if let Some(at) = self.take("!") {
                signs.push((at, "!_"));
            } else if !(self.sees("-") && number)
                && let Some(at) = self.take("-")
            {
                signs.push((at, "-_"));
            } else {
                break;
            }
        }
        let mut node = self.member()?;
        for (at, name) in signs.into_iter().rev() {
            node = self.node(at, Expr::Operator { name, of: vec![node] })?;
        }
        Ok(node)
    }

    fn member(&mut self) -> Parsed {
        let mut node = self.primary()?;
        loop {
            self.skip_space();
            if let Some(at) = self.take(".") {
                let optional = self.take("?").is_some();
                let field = self.field()?;
                node = match self.take("(") {
                    None => self.node(at, Expr::Select { of: Box::new(node), field, optional })?,
                    Some(at) => {
                        let arguments = self.list(")")?;
                        self.node(at, Expr::Call { on: Some(Box::new(node)), function: field, arguments })?
                    }
                };
            } else if let Some(at) = self.take("[") {
                let name = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                node = self.node(at, Expr::Operator { name, of: vec![node, index] })?;
            } else if matches!(node.expr, Expr::Name(_) | Expr::Select { .. })
                && let Some(at) = self.take("{")
            {
                let values = self.entries()?.into_iter().skip(1).step_by(2).collect();
                node = self.node(at, Expr::Message(values))?;
            } else {
                return Ok(node);
            }
        }
    }

    /// The rest of a list, and its end.
    fn list(&mut self, end: &str) -> Result<Vec<Node>, Issue> {
        let mut items = Vec::new();
        while self.take(end).is_none() {
            // An element that is there only if an optional has a value.
            self.take("?");
            items.push(self.expression()?);
            if self.take(",").is_none() {
                self.expect(end)?;
                break;
            }
        }
        Ok(items)
    }

    /// The rest of a map or message: keys and values in turn.
    fn entries(&mut self) -> Result<Vec<Node>, Issue> {
        let mut entries = Vec::new();
        while self.take("}").is_none() {
            self.take("?");
            entries.push(self.expression()?);
            self.expect(":")?;
            entries.push(self.expression()?);
            if self.take(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        Ok(entries)
    }

    fn field(&mut self) -> Result<String, Issue> {
        self.skip_space();
        if self.take("`").is_some() {
            let from = self.at;
            while self.text.get(self.at).is_some_and(|it| *it != '`') {
                self.at += 1;
            }
            let name = self.text[from..self.at].iter().collect();
            self.expect("`")?;
            return Ok(name);
        }
        self.word().ok_or_else(|| self.unexpected())
    }

    fn word(&mut self) -> Option<String> {
        let from = self.at;
        while self.text.get(self.at).is_some_and(|it| {
            it.is_ascii_alphabetic() || *it == '_' || (self.at > from && it.is_ascii_digit())
        }) {
            self.at += 1;
        }
        (self.at > from).then(|| self.text[from..self.at].iter().collect())
    }

    fn primary(&mut self) -> Parsed {
        self.skip_space();
        let at = self.at;
        if self.take("(").is_some() {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take("[").is_some() {
            let items = self.list("]")?;
            return self.node(at, Expr::List(items));
        }
        if self.take("{").is_some() {
            let entries = self.entries()?;
            return self.node(at, Expr::Map(entries));
        }
        if let Some(expr) = self.quoted()? {
            return self.node(at, expr);
        }
        if self.text.get(at).is_some_and(|it| it.is_ascii_digit() || *it == '-') || self.is_fraction() {
            let number = self.number()?;
            return self.node(at, number);
        }
        self.take(".");
        self.skip_space();
        let word = self.word().ok_or_else(|| self.unexpected())?;
        let (place, after) = (at, self.at);
        if let Some(at) = self.take("(") {
            let arguments = self.list(")")?;
            return self.node(at, Expr::Call { on: None, function: word, arguments });
        }
        self.at = after;
        match word.as_str() {
            "true" | "false" => self.node(place, Expr::Bool),
            "null" => self.node(place, Expr::Null),
            _ => self.node(place, Expr::Name(word)),
        }
    }

    fn is_fraction(&self) -> bool {
        self.sees(".") && self.text.get(self.at + 1).is_some_and(char::is_ascii_digit)
    }

    fn number(&mut self) -> Result<Expr, Issue> {
        let negative = self.sees("-");
        self.at += usize::from(negative);
        let hexadecimal = self.sees("0x") || self.sees("0X");
        let from = self.at;
        while let Some(it) = self.text.get(self.at) {
            let exponent =
                !hexadecimal && matches!(self.text[self.at - usize::from(self.at > from)], 'e' | 'E');
            // A dot that no digit follows selects something of the number.
            let fraction = self.is_fraction();
            if !(it.is_ascii_alphanumeric() || fraction || (exponent && matches!(it, '+' | '-'))) {
                break;
            }
            self.at += 1;
        }
        let text: String = self.text[from..self.at].iter().collect();
        let invalid = || Issue { at: from, message: format!("Syntax error: invalid number {text:?}") };
        let unsigned = text.strip_suffix(['u', 'U']);
        let digits = unsigned.unwrap_or(&text);
        let whole = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => Some(u64::from_str_radix(digits, 16).ok()),
            None => digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse().ok()),
        };
        // The least of all integers has no positive counterpart.
        let most = i64::MAX.unsigned_abs() + u64::from(negative);
        match (whole, unsigned.is_some()) {
            (Some(Some(_)), true) => Ok(Expr::Uint),
            (Some(Some(value)), false) if value <= most => Ok(Expr::Int),
            (None, false) if digits.parse::<f64>().is_ok() => Ok(Expr::Double),
            _ => Err(invalid()),
        }
    }

    /// A text or bytes, with any of its prefixes.
    fn quoted(&mut self) -> Result<Option<Expr>, Issue> {
        let mut at = self.at;
        let (mut raw, mut bytes) = (false, false);
        while let Some(prefix @ ('r' | 'R' | 'b' | 'B')) = self.text.get(at) {
            raw |= matches!(prefix, 'r' | 'R');
            bytes |= matches!(prefix, 'b' | 'B');
            at += 1;
        }
        let Some(quote @ ('"' | '\'')) = self.text.get(at).copied() else { return Ok(None) };
        let long = (at..at + 3).all(|place| self.text.get(place) == Some(&quote));
        let end: Vec<char> = vec![quote; if long { 3 } else { 1 }];
        at += end.len();
        loop {
            if self.text[at.min(self.text.len())..].starts_with(&end) {
                self.at = at + end.len();
                return Ok(Some(if bytes { Expr::Bytes } else { Expr::String }));
            }
            match self.text.get(at) {
                Some('\\') if !raw => at += 2,
                Some('\n') if !long => break,
                Some(_) => at += 1,
                None => break,
            }
        }
        Err(self.issue("text without an end"))
    }
}
