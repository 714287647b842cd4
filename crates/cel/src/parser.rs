//! Tokens to a tree: recursive descent, bounded in depth and size, with upstream's syntax errors.

use std::sync::Arc;

use crate::ast::{Element, Entry, Expr, Field, Id, Kind, Literal};
use crate::escape::is_reserved;
use crate::issues::Issues;
use crate::lexer::{Lexeme, Token, tokens};
use crate::{literal, macros};

/// Upstream's limits.
const MAX_CODE_POINTS: usize = 100_000;
const MAX_DEPTH: usize = 250;
/// Macros copy their arguments; a chain of them doubles the tree with every link.
const MAX_NODES: usize = 200_000;

const START: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
                     IDENTIFIER}";
const START_OF_LIST: &str = "{'[', ']', '{', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, \
                             NUM_UINT, STRING, BYTES, IDENTIFIER}";
const START_OF_MAP: &str = "{'[', '{', '}', '(', '.', ',', '-', '!', '?', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, \
                            NUM_UINT, STRING, BYTES, IDENTIFIER}";
const START_OF_FIELDS: &str = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}";

/// A parsed expression: the tree and where its nodes stand.
pub(crate) struct Parsed {
    pub expr: Expr,
    pub places: Vec<usize>,
}

/// `bindings`: whether there is `cel.bind`.
pub(crate) fn parse(text: &str, bindings: bool) -> Result<Parsed, Issues> {
    let mut issues = Issues::new(text);
    let source: Vec<char> = text.chars().collect();
    if source.len() > MAX_CODE_POINTS {
        let message =
            format!("expression code point size exceeds limit: size: {}, limit {MAX_CODE_POINTS}", source.len());
        issues.report(None, message);
        return Err(issues);
    }
    let lexemes = tokens(&source, &mut issues);
    let mut parser = Parser {
        source: &source,
        lexemes,
        at: 0,
        issues,
        factory: Factory { places: vec![0], full: false },
        depth: 0,
        recovering: false,
        gave_up: false,
        bindings,
    };
    let expr = parser.expression();
    if !parser.gave_up {
        parser.expect_end();
    }
    if parser.factory.full && !parser.gave_up {
        parser.issues.report(None, format!("expression is too large: macros expand it to more than {MAX_NODES} nodes"));
    }
    if parser.issues.is_empty() { Ok(Parsed { expr, places: parser.factory.places }) } else { Err(parser.issues) }
}

/// Numbers nodes and remembers where they stand.
pub(crate) struct Factory {
    /// By [`Id`]; the first is nobody's.
    pub places: Vec<usize>,
    /// Whether more nodes were wanted than there may be.
    pub full: bool,
}

impl Factory {
    pub(crate) fn id(&mut self, place: usize) -> Id {
        if self.places.len() >= MAX_NODES {
            self.full = true;
            return 0;
        }
        self.places.push(place);
        (self.places.len() - 1) as Id
    }

    pub(crate) fn expr(&mut self, place: usize, kind: Kind) -> Expr {
        Expr { id: self.id(place), kind }
    }

    pub(crate) fn place(&self, id: Id) -> usize {
        self.places[id as usize]
    }
}

pub(crate) struct Parser<'s> {
    source: &'s [char],
    lexemes: Vec<Lexeme>,
    at: usize,
    pub(crate) issues: Issues,
    pub(crate) factory: Factory,
    depth: usize,
    /// After an error, until a token fits again, further ones are consequences and not reported.
    recovering: bool,
    /// The expression is too deep: no more is looked at.
    gave_up: bool,
    /// Whether `cel.bind` is a macro.
    pub(crate) bindings: bool,
}

impl Parser<'_> {
    fn current(&self) -> Lexeme {
        if self.gave_up { self.lexemes[self.lexemes.len() - 1] } else { self.lexemes[self.at] }
    }

    fn following(&self) -> Token {
        self.lexemes[(self.at + 1).min(self.lexemes.len() - 1)].token
    }

    fn advance(&mut self) -> Lexeme {
        let lexeme = self.current();
        self.at = (self.at + 1).min(self.lexemes.len() - 1);
        self.recovering = false;
        lexeme
    }

    fn is(&self, symbol: &str) -> bool {
        self.current().token == Token::Symbol(symbol_name(symbol))
    }

    fn eat(&mut self, symbol: &str) -> Option<Lexeme> {
        self.is(symbol).then(|| self.advance())
    }

    fn text(&self, lexeme: Lexeme) -> String {
        self.source[lexeme.start..lexeme.end].iter().collect()
    }

    fn shown(&self, lexeme: Lexeme) -> String {
        if lexeme.token == Token::End { "<EOF>".to_owned() } else { self.text(lexeme) }
    }

    fn syntax_error(&mut self, message: &str) {
        if !self.recovering && !self.gave_up {
            let place = self.current().start;
            self.issues.report(Some(place), format!("Syntax error: {message}"));
        }
        self.recovering = true;
    }

    pub(crate) fn error(&mut self, place: usize, message: String) -> Expr {
        if !self.gave_up {
            self.issues.report(Some(place), message);
        }
        self.factory.expr(place, Kind::Error)
    }

    fn too_deep(&mut self, message: &str) -> Expr {
        if !self.gave_up {
            self.issues.report(None, message.to_owned());
            self.gave_up = true;
        }
        self.factory.expr(0, Kind::Error)
    }

    /// Takes the symbol; where it is missing, upstream either drops the one token that is in its place or goes on without.
    fn expect(&mut self, symbol: &'static str) -> bool {
        if self.eat(symbol).is_some() {
            return true;
        }
        let found = self.shown(self.current());
        if self.following() == Token::Symbol(symbol) && self.current().token != Token::End {
            self.syntax_error(&format!("extraneous input '{found}' expecting '{symbol}'"));
            self.at += 1;
            self.advance();
            return true;
        }
        let may_follow = symbol != ":" && (self.current().token == Token::End || self.is_operator());
        if may_follow {
            self.syntax_error(&format!("missing '{symbol}' at '{found}'"));
        } else {
            self.syntax_error(&format!("mismatched input '{found}' expecting '{symbol}'"));
            self.skip();
        }
        false
    }

    fn expect_end(&mut self) {
        let lexeme = self.current();
        if lexeme.token == Token::End {
            return;
        }
        let how = if self.following() == Token::End { "extraneous" } else { "mismatched" };
        let found = self.text(lexeme);
        self.syntax_error(&format!("{how} input '{found}' expecting <EOF>"));
    }

    fn is_operator(&self) -> bool {
        match self.current().token {
            Token::Symbol(s) => !matches!(s, "!" | "{" | "("),
            Token::Keyword(k) => k == "in",
            _ => false,
        }
    }

    /// On to where parsing may go on.
    fn skip(&mut self) {
        while self.current().token != Token::End
            && !matches!(self.current().token, Token::Symbol(s) if !matches!(s, "!" | "{" | "("))
        {
            self.at += 1;
        }
    }

    fn starts_expression(token: Token) -> bool {
        match token {
            Token::Symbol(s) => matches!(s, "[" | "{" | "(" | "." | "-" | "!"),
            Token::Keyword(k) => k != "in",
            Token::End | Token::EscapedIdentifier => false,
            Token::Identifier | Token::Int | Token::Uint | Token::Float | Token::String | Token::Bytes => true,
        }
    }

    /// Whether an expression begins here, having dropped one token in the way if that helps; reports when none does.
    fn begins(&mut self, expected: &str) -> bool {
        if Self::starts_expression(self.current().token) {
            return true;
        }
        let found = self.shown(self.current());
        if self.current().token != Token::End && Self::starts_expression(self.following()) {
            self.syntax_error(&format!("extraneous input '{found}' expecting {expected}"));
            self.at += 1;
            return true;
        }
        self.syntax_error(&format!("mismatched input '{found}' expecting {expected}"));
        self.skip();
        false
    }

    // One level of nesting costs a frame of each of the functions below.

    fn expression(&mut self) -> Expr {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.depth -= 1;
            return self.too_deep(&format!("expression recursion limit exceeded: {MAX_DEPTH}"));
        }
        let result = crate::stack::with_room(|| self.choice());
        self.depth -= 1;
        result
    }

    fn choice(&mut self) -> Expr {
        let condition = self.operation(0);
        match self.eat("?") {
            None => condition,
            Some(mark) => {
                let id = self.factory.id(mark.start);
                let yes = self.operation(0);
                self.expect(":");
                let no = self.expression();
                self.call(id, "_?_:_", vec![condition, yes, no])
            }
        }
    }

    /// Operators of this level and those that bind tighter: `||` (0), `&&` (1), relations (2), sums (3), products (4).
    fn operation(&mut self, level: usize) -> Expr {
        let first = self.unary();
        let mut left = self.arithmetic(first, level.max(2));
        for of in (level..2).rev() {
            left = self.logical(of, left);
        }
        left
    }

    fn arithmetic(&mut self, mut left: Expr, lowest: usize) -> Expr {
        let mut length = 0;
        while let Some((level, function)) = self.operator().filter(|(level, _)| *level >= lowest) {
            length += 1;
            if length >= MAX_DEPTH {
                return self.too_deep(&format!("expression recursion limit exceeded: {MAX_DEPTH}"));
            }
            let place = self.advance().start;
            let id = self.factory.id(place);
            let mut right = self.unary();
            if self.operator().is_some_and(|(next, _)| next > level) {
                right = self.arithmetic(right, level + 1);
            }
            left = self.call(id, function, vec![left, right]);
        }
        left
    }

    fn operator(&self) -> Option<(usize, &'static str)> {
        let Lexeme { token: Token::Symbol(text) | Token::Keyword(text), .. } = self.current() else { return None };
        Some(match text {
            "<" => (2, "_<_"),
            "<=" => (2, "_<=_"),
            ">" => (2, "_>_"),
            ">=" => (2, "_>=_"),
            "==" => (2, "_==_"),
            "!=" => (2, "_!=_"),
            "in" => (2, "@in"),
            "+" => (3, "_+_"),
            "-" => (3, "_-_"),
            "*" => (4, "_*_"),
            "/" => (4, "_/_"),
            "%" => (4, "_%_"),
            _ => return None,
        })
    }

    /// A chain of `&&` or `||` becomes a balanced tree, as upstream's.
    fn logical(&mut self, level: usize, first: Expr) -> Expr {
        let (symbol, function) = if level == 0 { ("||", "_||_") } else { ("&&", "_&&_") };
        if !self.is(symbol) {
            return first;
        }
        let mut terms = vec![Some(first)];
        let mut ids = Vec::new();
        while let Some(lexeme) = self.eat(symbol) {
            let term = self.operation(level + 1);
            terms.push(Some(term));
            ids.push(self.factory.id(lexeme.start));
        }
        balanced(function, &mut terms, &ids, 0, ids.len() - 1)
    }

    fn unary(&mut self) -> Expr {
        if !self.begins(START) {
            let place = self.current().start;
            return self.factory.expr(place, Kind::Error);
        }
        let (symbol, function) = if self.is("!") {
            ("!", "!_")
        } else if self.is("-") {
            ("-", "-_")
        } else {
            return self.member();
        };
        // A number takes its sign with it.
        if symbol == "-" && matches!(self.following(), Token::Int | Token::Float) {
            return self.member();
        }
        let first = self.advance();
        let mut count = 1;
        while self.is(symbol) && !(symbol == "-" && matches!(self.following(), Token::Int | Token::Float)) {
            self.advance();
            count += 1;
        }
        if !Self::starts_expression(self.current().token) {
            self.begins(START);
            return self.factory.expr(first.start, Kind::Error);
        }
        if count % 2 == 0 {
            return self.member();
        }
        let id = self.factory.id(first.start);
        let operand = self.member();
        self.call(id, function, vec![operand])
    }

    fn member(&mut self) -> Expr {
        let mut expr = self.primary();
        let mut length = 0;
        while self.is(".") || self.is("[") {
            length += 1;
            if length >= MAX_DEPTH {
                return self.too_deep(&format!("expression recursion limit exceeded: {MAX_DEPTH}"));
            }
            expr = if self.is(".") { self.select(expr) } else { self.index(expr) };
        }
        expr
    }

    fn select(&mut self, operand: Expr) -> Expr {
        let dot = self.advance();
        let optional = self.eat("?").is_some();
        let name = self.current();
        match name.token {
            Token::Identifier => {}
            Token::EscapedIdentifier => {
                self.advance();
                return self.error(name.start, "unsupported syntax: '`'".to_owned());
            }
            Token::Keyword(keyword) => {
                self.syntax_error(&format!("mismatched input '{keyword}' expecting IDENTIFIER"));
                self.at += 1;
                return self.factory.expr(dot.start, Kind::Error);
            }
            _ => {
                let shown = self.shown(name);
                if name.token == Token::End {
                    let text = if optional { ".?" } else { "." };
                    self.syntax_error(&format!("no viable alternative at input '{text}'"));
                } else {
                    self.syntax_error(&format!("no viable alternative at input '.{shown}'"));
                    self.skip();
                }
                return self.factory.expr(dot.start, Kind::Error);
            }
        }
        self.advance();
        let text: Arc<str> = self.text(name).into();
        if optional {
            let id = self.factory.id(dot.start);
            let field = self.factory.expr(name.start, Kind::Literal(Literal::String(text)));
            return Expr { id, kind: Kind::Call { function: "_?._".into(), target: None, args: vec![operand, field] } };
        }
        let Some(open) = self.eat("(") else {
            return self.factory.expr(dot.start, Kind::Select { operand: Box::new(operand), field: text, test: false });
        };
        let id = self.factory.id(open.start);
        let args = self.arguments();
        macros::call(self, id, &text, Some(operand), args)
    }

    fn index(&mut self, target: Expr) -> Expr {
        let open = self.advance();
        let optional = self.eat("?").is_some();
        let id = self.factory.id(open.start);
        let index = self.expression();
        self.expect("]");
        self.call(id, if optional { "_[?_]" } else { "_[_]" }, vec![target, index])
    }

    /// What stands between parentheses, and the closing one.
    fn arguments(&mut self) -> Vec<Expr> {
        let mut args = Vec::new();
        if !self.is(")") {
            args.push(self.expression());
            while self.eat(",").is_some() {
                args.push(self.expression());
            }
        }
        self.expect(")");
        args
    }

    fn primary(&mut self) -> Expr {
        let lexeme = self.current();
        match lexeme.token {
            Token::Symbol("(") => {
                self.advance();
                let inner = self.expression();
                self.expect(")");
                inner
            }
            Token::Symbol("[") => self.list(),
            Token::Symbol("{") => self.map(),
            Token::Symbol(".") | Token::Identifier => self.name(),
            Token::Symbol("-") => {
                self.advance();
                self.number(lexeme.start, true)
            }
            Token::Int | Token::Uint | Token::Float => self.number(lexeme.start, false),
            Token::String | Token::Bytes => self.quoted(),
            Token::Keyword(keyword) if keyword != "in" => {
                self.advance();
                let value = match keyword {
                    "true" => Literal::Bool(true),
                    "false" => Literal::Bool(false),
                    _ => Literal::Null,
                };
                self.factory.expr(lexeme.start, Kind::Literal(value))
            }
            _ => {
                self.begins(START);
                self.factory.expr(lexeme.start, Kind::Error)
            }
        }
    }

    fn number(&mut self, place: usize, negative: bool) -> Expr {
        let lexeme = self.advance();
        let text = self.text(lexeme);
        let (parsed, what) = match lexeme.token {
            Token::Int => (literal::int(&text, negative).map(Literal::Int), "int"),
            Token::Uint => (literal::uint(&text).map(Literal::Uint), "uint"),
            _ => (literal::double(&text, negative).map(Literal::Double), "double"),
        };
        match parsed {
            Some(value) => self.factory.expr(place, Kind::Literal(value)),
            None => self.error(place, format!("invalid {what} literal")),
        }
    }

    fn quoted(&mut self) -> Expr {
        let lexeme = self.advance();
        let text = self.text(lexeme);
        let unquoted = if lexeme.token == Token::Bytes {
            literal::unquote_bytes(&text[1..]).map(|bytes| Literal::Bytes(bytes.into()))
        } else {
            literal::unquote(&text).map(|text| Literal::String(text.into()))
        };
        match unquoted {
            Ok(value) => self.factory.expr(lexeme.start, Kind::Literal(value)),
            Err(message) => self.error(lexeme.start, message.to_owned()),
        }
    }

    /// A variable, a call of a function, or a struct literal, which begins with its type's name.
    fn name(&mut self) -> Expr {
        let start = self.current().start;
        let dot = self.eat(".").is_some();
        let lexeme = self.current();
        if lexeme.token != Token::Identifier {
            let shown = self.shown(lexeme);
            let text = if lexeme.token == Token::End { String::new() } else { shown };
            self.syntax_error(&format!("no viable alternative at input '.{text}'"));
            self.skip();
            return self.factory.expr(start, Kind::Error);
        }
        if let Some(name) = self.struct_name(dot) {
            return self.structure(name);
        }
        self.advance();
        let word = self.text(lexeme);
        let reserved = is_reserved(&word);
        let name: Arc<str> = if dot { format!(".{word}").into() } else { word.as_str().into() };
        if let Some(open) = self.eat("(") {
            let id = self.factory.id(open.start);
            let args = self.arguments();
            if reserved {
                return self.error(start, format!("reserved identifier: {word}"));
            }
            return macros::call(self, id, &name, None, args);
        }
        if reserved {
            return self.error(start, format!("reserved identifier: {word}"));
        }
        self.factory.expr(lexeme.start, Kind::Ident(name))
    }

    /// The dotted name before a `{`, if that is what follows; then the `{` is next.
    fn struct_name(&mut self, dot: bool) -> Option<Arc<str>> {
        let mut at = self.at;
        let mut name = String::from(if dot { "." } else { "" });
        loop {
            let lexeme = self.lexemes[at];
            if lexeme.token != Token::Identifier {
                return None;
            }
            name.push_str(&self.text(lexeme));
            match self.lexemes.get(at + 1)?.token {
                Token::Symbol("{") => {
                    self.at = at + 1;
                    return Some(name.into());
                }
                Token::Symbol(".") => {
                    name.push('.');
                    at += 2;
                }
                _ => return None,
            }
        }
    }

    fn structure(&mut self, name: Arc<str>) -> Expr {
        let open = self.advance();
        let id = self.factory.id(open.start);
        let mut fields = Vec::new();
        while !self.is("}") && self.current().token != Token::End {
            if self.eat(",").is_some() && (fields.is_empty() || self.is("}")) {
                break;
            }
            let optional = self.eat("?").is_some();
            let lexeme = self.current();
            if lexeme.token != Token::Identifier {
                if lexeme.token == Token::EscapedIdentifier {
                    self.error(lexeme.start, "unsupported syntax: '`'".to_owned());
                    self.gave_up = true;
                    break;
                }
                let expected = if optional { "{IDENTIFIER, ESC_IDENTIFIER}" } else { START_OF_FIELDS };
                let found = self.shown(lexeme);
                if self.following() == Token::Identifier {
                    self.syntax_error(&format!("extraneous input '{found}' expecting {expected}"));
                    self.at += 1;
                } else {
                    self.syntax_error(&format!("mismatched input '{found}' expecting {expected}"));
                    self.skip();
                    break;
                }
            }
            let lexeme = self.advance();
            let field: Arc<str> = self.text(lexeme).into();
            let colon = self.current().start;
            if !self.expect(":") {
                break;
            }
            let field_id = self.factory.id(colon);
            let value = self.expression();
            fields.push(Field { id: field_id, name: field, value, optional });
            if !self.is(",") {
                break;
            }
        }
        self.expect("}");
        Expr { id, kind: Kind::Struct { name, fields } }
    }

    fn list(&mut self) -> Expr {
        let open = self.advance();
        let id = self.factory.id(open.start);
        let mut elements = Vec::new();
        while !self.is("]") {
            if self.is(",") {
                // The one comma that may stand in an empty list.
                self.advance();
                break;
            }
            let optional = self.eat("?").is_some();
            if !self.begins(if elements.is_empty() && !optional { START_OF_LIST } else { START }) {
                break;
            }
            elements.push(Element { value: self.expression(), optional });
            if self.eat(",").is_none() || self.current().token == Token::End {
                break;
            }
        }
        self.expect("]");
        Expr { id, kind: Kind::List(elements) }
    }

    fn map(&mut self) -> Expr {
        let open = self.advance();
        let id = self.factory.id(open.start);
        let mut entries = Vec::new();
        while !self.is("}") {
            if self.is(",") {
                self.advance();
                break;
            }
            let optional = self.eat("?").is_some();
            if !self.begins(if entries.is_empty() && !optional { START_OF_MAP } else { START }) {
                break;
            }
            let key = self.expression();
            let colon = self.current().start;
            if !self.expect(":") {
                break;
            }
            self.factory.id(colon);
            let value = self.expression();
            entries.push(Entry { key, value, optional });
            if self.eat(",").is_none() || self.current().token == Token::End {
                break;
            }
        }
        self.expect("}");
        Expr { id, kind: Kind::Map(entries) }
    }

    fn call(&mut self, id: Id, function: &str, args: Vec<Expr>) -> Expr {
        Expr { id, kind: Kind::Call { function: function.into(), target: None, args } }
    }
}

fn symbol_name(symbol: &str) -> &'static str {
    const ALL: &[&str] = &["?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "!", "-", "&&", "||"];
    ALL.iter().find(|s| **s == symbol).copied().unwrap_or("")
}

fn balanced(function: &str, terms: &mut [Option<Expr>], ids: &[Id], low: usize, high: usize) -> Expr {
    let middle = (low + high).div_ceil(2);
    let mut half = |empty: bool, term: usize, from: usize, to: usize| {
        if empty {
            terms[term].take().unwrap_or(Expr { id: 0, kind: Kind::Error })
        } else {
            balanced(function, terms, ids, from, to)
        }
    };
    let left = half(middle == low, middle, low, middle.wrapping_sub(1));
    let right = half(middle == high, middle + 1, middle + 1, high);
    Expr { id: ids[middle], kind: Kind::Call { function: function.into(), target: None, args: vec![left, right] } }
}
