//! The Corefile: server blocks, each with the plugins of its zones. The syntax and the texts of errors are CoreDNS'.

use std::path::Path;

use ipnet::IpNet;

use crate::name::Name;

/// How deep snippets and files may import one another.
const MAX_IMPORT_DEPTH: usize = 8;

/// What is wrong with a Corefile, and where.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CorefileError {
    #[error("{file}:{line} - Error during parsing: {cause}")]
    Syntax { file: String, line: usize, cause: String },
    #[error("plugin/{plugin}: {file}:{line} - Error during parsing: {cause}")]
    Plugin { plugin: String, file: String, line: usize, cause: String },
    #[error("cannot read {file}: {cause}")]
    Read { file: String, cause: String },
}

/// A line of a block: a name, arguments, and lines in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub block: Vec<Directive>,
    pub file: String,
    pub line: usize,
}

impl Directive {
    /// An error of this directive as the plugin `plugin` reports it.
    pub fn error(&self, plugin: &str, cause: impl Into<String>) -> CorefileError {
        CorefileError::Plugin { plugin: plugin.into(), file: self.file.clone(), line: self.line, cause: cause.into() }
    }

    /// Wrong number or form of arguments.
    pub fn wrong_args(&self, plugin: &str) -> CorefileError {
        self.error(plugin, format!("Wrong argument count or unexpected line ending after '{}'", self.last_word()))
    }

    /// A property that the plugin does not know.
    pub fn unknown_property(&self, plugin: &str) -> CorefileError {
        self.error(plugin, format!("unknown property '{}'", self.name))
    }

    fn last_word(&self) -> &str {
        self.args.last().unwrap_or(&self.name)
    }
}

/// Zones on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBlock {
    pub zones: Vec<(Name, u16)>,
    pub directives: Vec<Directive>,
}

struct Token {
    text: String,
    file: String,
    line: usize,
    /// Written in quotes: never a brace.
    quoted: bool,
}

/// Parses a Corefile. `file` is its name in errors, `default_port` that of zones that name none.
pub fn parse(text: &str, file: &str, default_port: u16) -> Result<Vec<ServerBlock>, CorefileError> {
    let mut parser = Parser { tokens: lex(text, file)?, at: 0 };
    let mut raw = Vec::new();
    while parser.at < parser.tokens.len() {
        raw.push(parser.server_block()?);
    }
    let (snippets, blocks): (Vec<_>, Vec<_>) = raw
        .into_iter()
        .partition(|(keys, _)| keys.len() == 1 && keys[0].text.starts_with('(') && keys[0].text.ends_with(')'));
    let base = Path::new(file).parent().unwrap_or(Path::new("."));
    let imports = Imports { snippets: &snippets, base };
    let mut result: Vec<ServerBlock> = Vec::new();
    for (keys, directives) in blocks {
        let mut zones = Vec::new();
        for key in &keys {
            let parsed = parse_key(&key.text, default_port).map_err(|cause| CorefileError::Syntax {
                file: key.file.clone(),
                line: key.line,
                cause,
            })?;
            for zone in parsed {
                if zones.contains(&zone) || result.iter().any(|block| block.zones.contains(&zone)) {
                    let cause = format!("cannot serve dns://{}:{} - it is already defined", zone.0, zone.1);
                    return Err(CorefileError::Syntax { file: key.file.clone(), line: key.line, cause });
                }
                zones.push(zone);
            }
        }
        result.push(ServerBlock { zones, directives: imports.expand(directives, 0)? });
    }
    Ok(result)
}

type RawBlock = (Vec<Token>, Vec<Directive>);

fn lex(text: &str, file: &str) -> Result<Vec<Token>, CorefileError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let start = line;
                let mut word = String::new();
                loop {
                    match chars.next() {
                        None => {
                            let cause = "Unexpected EOF: a quote is not closed".into();
                            return Err(CorefileError::Syntax { file: file.into(), line: start, cause });
                        }
                        Some('"') => break,
                        Some('\\') if chars.peek() == Some(&'"') => word.extend(chars.next()),
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                    }
                }
                tokens.push(Token { text: word, file: file.into(), line: start, quoted: true });
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                tokens.push(Token { text: expand_environment(&word), file: file.into(), line, quoted: false });
            }
        }
    }
    Ok(tokens)
}

/// Replaces `{$NAME}` by the environment variable's value.
fn expand_environment(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("{$") {
        let Some((name, tail)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(&std::env::var(name).unwrap_or_default());
        rest = tail;
    }
    out + rest
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn error(&self, at: usize, cause: impl Into<String>) -> CorefileError {
        let token = self.tokens.get(at).or(self.tokens.last());
        let (file, line) = token.map_or_else(Default::default, |token| (token.file.clone(), token.line));
        CorefileError::Syntax { file, line, cause: cause.into() }
    }

    fn is(&self, at: usize, brace: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| !token.quoted && token.text == brace)
    }

    fn server_block(&mut self) -> Result<RawBlock, CorefileError> {
        let start = self.at;
        while self.at < self.tokens.len() && !self.is(self.at, "{") {
            if self.is(self.at, "}") {
                return Err(self.error(self.at, "Unexpected '}' because no matching opening brace"));
            }
            self.at += 1;
        }
        if self.at == self.tokens.len() {
            return Err(self.error(start, "Unexpected EOF: a server block needs an opening brace"));
        }
        if start == self.at {
            return Err(self.error(self.at, "Expected a zone before '{'"));
        }
        let keys = self.tokens[start..self.at]
            .iter()
            .flat_map(|token| {
                token.text.split(',').filter(|text| !text.is_empty()).map(|text| Token {
                    text: text.to_owned(),
                    file: token.file.clone(),
                    line: token.line,
                    quoted: false,
                })
            })
            .collect();
        Ok((keys, self.braces()?))
    }

    /// The directives between braces; stands at the opening one.
    fn braces(&mut self) -> Result<Vec<Directive>, CorefileError> {
        let open = self.at;
        self.at += 1;
        let mut directives = Vec::new();
        loop {
            if self.at >= self.tokens.len() {
                return Err(self.error(open, "Unexpected EOF: '{' is not closed"));
            }
            if self.is(self.at, "}") {
                self.at += 1;
                return Ok(directives);
            }
            if self.is(self.at, "{") {
                return Err(self.error(self.at, "Unexpected '{': a directive needs a name"));
            }
            let token = &self.tokens[self.at];
            let (file, line) = (token.file.clone(), token.line);
            let mut directive = Directive { name: token.text.clone(), args: Vec::new(), block: Vec::new(), file, line };
            self.at += 1;
            while self.tokens.get(self.at).is_some_and(|t| t.line == line) && !self.is(self.at, "{") {
                if self.is(self.at, "}") {
                    return Err(self.error(self.at, "Unexpected '}' because it must stand on a line of its own"));
                }
                directive.args.push(self.tokens[self.at].text.clone());
                self.at += 1;
            }
            if self.is(self.at, "{") && self.tokens[self.at].line == line {
                directive.block = self.braces()?;
            }
            directives.push(directive);
        }
    }
}

struct Imports<'a> {
    snippets: &'a [RawBlock],
    base: &'a Path,
}

impl Imports<'_> {
    /// Puts snippets and files in the place of `import` lines.
    fn expand(&self, directives: Vec<Directive>, depth: usize) -> Result<Vec<Directive>, CorefileError> {
        let mut out = Vec::new();
        for directive in directives {
            if directive.name != "import" {
                out.push(directive);
                continue;
            }
            let error =
                |cause: String| CorefileError::Syntax { file: directive.file.clone(), line: directive.line, cause };
            let [what] = directive.args.as_slice() else {
                return Err(error("import needs one argument: a snippet or a file".into()));
            };
            if depth == MAX_IMPORT_DEPTH {
                return Err(error(format!("imports are nested more than {MAX_IMPORT_DEPTH} deep")));
            }
            let snippet = self.snippets.iter().find(|(keys, _)| keys[0].text == format!("({what})"));
            let found = match snippet {
                Some((_, directives)) => directives.clone(),
                None => {
                    let path = self.base.join(what);
                    let file = path.display().to_string();
                    let text = std::fs::read_to_string(&path)
                        .map_err(|cause| error(format!("File to import not found: {file}: {cause}")))?;
                    let mut parser = Parser { tokens: lex(&format!("{{\n{text}\n}}"), &file)?, at: 0 };
                    parser.braces()?
                }
            };
            out.extend(self.expand(found, depth + 1)?);
        }
        Ok(out)
    }
}

/// The zones that a server block's key stands for.
fn parse_key(key: &str, default_port: u16) -> Result<Vec<(Name, u16)>, String> {
    let rest = match key.split_once("://") {
        None => key,
        Some(("dns", rest)) => rest,
        Some((other, _)) => {
            return Err(format!("the transport {other:?} is not supported: only dns is"));
        }
    };
    let (zone, port) = match rest.rsplit_once(':') {
        Some((zone, port)) if !zone.contains(':') => {
            (zone, port.parse().map_err(|_| format!("invalid port {port:?} in {key:?}"))?)
        }
        _ => (rest, default_port),
    };
    let zones =
        zones_of(if zone.is_empty() { "." } else { zone }).ok_or_else(|| format!("not a domain name: {key:?}"))?;
    Ok(zones.into_iter().map(|zone| (zone, port)).collect())
}

/// A zone by name, or the reverse zones of a CIDR.
pub fn zones_of(text: &str) -> Option<Vec<Name>> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(reverse_zones(net)),
        Err(_) => Some(vec![Name::parse(text)?]),
    }
}

/// The reverse zones that cover a network, cut at octets or nibbles.
fn reverse_zones(net: IpNet) -> Vec<Name> {
    let step = if net.addr().is_ipv4() { 8 } else { 4 };
    let len = net.prefix_len().next_multiple_of(step).min(net.max_prefix_len());
    let Ok(subnets) = net.subnets(len) else { return Vec::new() };
    let drop = usize::from((net.max_prefix_len() - len) / step);
    subnets
        .filter_map(|subnet| {
            let full = Name::reverse(subnet.addr());
            let labels: Vec<&[u8]> = crate::name::labels(full.as_wire()).skip(drop).collect();
            Name::from_labels(&labels, &Name::root())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

    #[test]
    fn kubeadms_corefile_is_read() {
        let blocks = parse(KUBEADM, "Corefile", 53).unwrap();
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].zones, [(Name::root(), 53)]);
        let names: Vec<_> = blocks[0].directives.iter().map(|d| (d.name.as_str(), d.line)).collect();
        assert_eq!(
            names,
            [
                ("errors", 2),
                ("health", 3),
                ("ready", 6),
                ("kubernetes", 7),
                ("prometheus", 12),
                ("forward", 13),
                ("cache", 16),
                ("loop", 20),
                ("reload", 21),
                ("loadbalance", 22)
            ]
        );
        let kubernetes = &blocks[0].directives[3];
        assert_eq!(kubernetes.args, ["cluster.local", "in-addr.arpa", "ip6.arpa"]);
        assert_eq!(kubernetes.block[1].args, ["in-addr.arpa", "ip6.arpa"]);
    }

    #[test]
    fn keys_name_zones_and_ports() {
        let check = |key: &str, expect: &[&str]| {
            let shown =
                parse_key(key, 53).map(|zones| zones.iter().map(|(z, p)| format!("{z}:{p}")).collect::<Vec<_>>());
            assert_eq!(shown, Ok(expect.iter().map(|e| (*e).to_owned()).collect()), "{key}");
        };
        check(".", &[".:53"]);
        check("example.org:1053", &["example.org.:1053"]);
        check("dns://a.b", &["a.b.:53"]);
        check("10.1.0.0/16", &["1.10.in-addr.arpa.:53"]);
        check("10.0.0.0/15", &["0.10.in-addr.arpa.:53", "1.10.in-addr.arpa.:53"]);
        check("fd00::/8", &["d.f.ip6.arpa.:53"]);
        assert!(parse_key("tls://.", 53).unwrap_err().contains("not supported"));
        assert!(parse_key("a:b", 53).unwrap_err().contains("invalid port"));
    }

    #[test]
    fn snippets_and_files_are_imported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Corefile");
        std::fs::write(dir.path().join("extra"), "log\nforward . 1.1.1.1 {\n max_fails 1\n}\n").unwrap();
        let text = "(common) {\n errors\n import extra\n}\na.test, b.test {\n import common\n cache\n}\n";
        let blocks = parse(text, file.to_str().unwrap(), 53).unwrap();
        let names: Vec<_> = blocks[0].directives.iter().map(|d| d.name.as_str()).collect();
        assert_eq!((blocks[0].zones.len(), names), (2, vec!["errors", "log", "forward", "cache"]));
    }

    #[test]
    fn errors_tell_the_line() {
        for (text, expect) in [
            (".:53 {\n errors\n", "Corefile:1 - Error during parsing: Unexpected EOF: '{' is not closed"),
            ("errors\n", "Corefile:1 - Error during parsing: Unexpected EOF"),
            ("}\n", "Corefile:1 - Error during parsing: Unexpected '}' because no matching opening brace"),
            (". {\n}\n. {\n}\n", "Corefile:3 - Error during parsing: cannot serve dns://.:53 - it is already defined"),
            (". {\n import nowhere\n}\n", "Corefile:2 - Error during parsing: File to import not found"),
            ("(a) {\n import a\n}\n. {\n import a\n}\n", "Corefile:2 - Error during parsing: imports are nested"),
            (". {\n log \"open\n}\n", "Corefile:2 - Error during parsing: Unexpected EOF: a quote"),
        ] {
            let error = parse(text, "Corefile", 53).unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
        }
    }
}
