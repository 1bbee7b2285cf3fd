//! Statements of a PTX module, by recursive descent over its tokens.

pub use super::ast::{Arg, Func, Init, Ins, Module, Stmt, Var, What};
use super::lex::{Kind, Token, tokens};
use super::types::{Space, Ty};
use std::collections::HashMap;

/// Parses a module.
///
/// # Errors
///
/// What was expected and found, with the line.
pub fn parse(text: &str) -> Result<Module<'_>, String> {
    let mut p = Parser {
        tokens: tokens(text)?,
        at: 0,
        files: HashMap::new(),
        loc: (0, 0),
    };
    let mut module = Module::default();
    while let Some(token) = p.peek() {
        p.item(token, &mut module)?;
    }
    module.files = p.files;
    Ok(module)
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    files: HashMap<u64, &'a str>,
    loc: (u32, u32),
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn kind(&self) -> Option<Kind<'a>> {
        self.peek().map(|t| t.kind)
    }

    fn line(&self) -> u32 {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(0, |t| t.line)
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T, String> {
        Err(format!(
            "line {}: expected {wanted}, found {:?}",
            self.line(),
            self.kind()
        ))
    }

    fn eat(&mut self, c: u8) -> bool {
        let found = self.kind() == Some(Kind::Punct(c));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: u8) -> Result<(), String> {
        if self.eat(c) {
            Ok(())
        } else {
            self.wrong(&format!("`{}`", c as char))
        }
    }

    fn word(&mut self) -> Result<&'a str, String> {
        match self.kind() {
            Some(Kind::Word(w)) => {
                self.at += 1;
                Ok(w)
            }
            _ => self.wrong("a name"),
        }
    }

    fn int(&mut self) -> Result<i64, String> {
        let negative = self.eat(b'-');
        match self.kind() {
            Some(Kind::Int(v)) => {
                self.at += 1;
                Ok(if negative {
                    (v as i64).wrapping_neg()
                } else {
                    v as i64
                })
            }
            _ => self.wrong("an integer"),
        }
    }

    /// Skips what is left of a line.
    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn skip_past(&mut self, c: u8) {
        while self.peek().is_some() && !self.eat(c) {
            self.at += 1;
        }
    }

    /// Skips `{ .. }` with everything in it.
    fn skip_block(&mut self) {
        let mut depth = 0;
        while let Some(kind) = self.kind() {
            self.at += 1;
            match kind {
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn item(&mut self, token: Token<'a>, module: &mut Module<'a>) -> Result<(), String> {
        let mut word = self.word()?;
        let mut external = false;
        while matches!(word, ".visible" | ".extern" | ".weak" | ".common") {
            external |= word == ".extern";
            word = self.word()?;
        }
        match word {
            ".version" | ".address_size" => self.skip_line(token.line),
            ".target" => {
                module.target = self.word()?;
                self.skip_line(token.line);
            }
            ".file" => self.file(token.line)?,
            ".section" => self.skip_block(),
            ".alias" | ".pragma" => self.skip_past(b';'),
            ".entry" | ".func" => module.funcs.push(self.func(word == ".entry")?),
            ".global" | ".const" | ".shared" => {
                for mut var in self.vars(word)? {
                    var.external = external;
                    module.vars.push(var);
                }
            }
            _ => return Err(format!("line {}: unknown directive {word}", token.line)),
        }
        Ok(())
    }

    fn file(&mut self, line: u32) -> Result<(), String> {
        let number = self.int()? as u64;
        if let Some(Kind::Str(name)) = self.kind() {
            self.files.insert(number, name);
        }
        self.skip_line(line);
        Ok(())
    }

    fn func(&mut self, entry: bool) -> Result<Func<'a>, String> {
        let mut func = Func {
            entry,
            ..Func::default()
        };
        while matches!(self.kind(), Some(Kind::Word(w)) if w.starts_with('.')) {
            self.at += 1;
        }
        if !entry && self.eat(b'(') {
            func.rets = self.params()?;
        }
        func.name = self.word()?;
        if self.eat(b'(') {
            func.params = self.params()?;
        }
        loop {
            match self.kind() {
                Some(Kind::Punct(b'{')) => {
                    self.at += 1;
                    func.body = Some(self.body()?);
                    return Ok(func);
                }
                Some(Kind::Punct(b';')) => {
                    self.at += 1;
                    return Ok(func);
                }
                Some(Kind::Word(".maxntid")) => func.maxntid = Some(self.dims()?),
                Some(Kind::Word(".reqntid")) => func.reqntid = Some(self.dims()?),
                Some(Kind::Word(w)) if w.starts_with('.') => {
                    self.at += 1;
                    while matches!(self.kind(), Some(Kind::Int(_) | Kind::Punct(b','))) {
                        self.at += 1;
                    }
                }
                _ => return self.wrong("a function's body"),
            }
        }
    }

    fn dims(&mut self) -> Result<[u32; 3], String> {
        self.at += 1;
        let mut dims = [self.int()? as u32, 1, 1];
        for dim in &mut dims[1..] {
            if !self.eat(b',') {
                break;
            }
            *dim = self.int()? as u32;
        }
        Ok(dims)
    }

    fn params(&mut self) -> Result<Vec<Var<'a>>, String> {
        let mut params = Vec::new();
        while !self.eat(b')') {
            match self.word()? {
                space @ (".param" | ".reg") => params.extend(self.declaration(space)?),
                _ => return self.wrong("a parameter"),
            }
            self.eat(b',');
        }
        Ok(params)
    }

    fn vars(&mut self, space: &'a str) -> Result<Vec<Var<'a>>, String> {
        let mut vars = vec![
            self.declaration(space)?
                .ok_or("a variable without a name")?,
        ];
        while self.eat(b',') {
            let first = vars[0].clone();
            let name = self.word()?;
            let count = self.extent()?;
            vars.push(Var {
                name,
                size: count * u64::from(first.ty.size()),
                init: Vec::new(),
                ..first
            });
        }
        self.expect(b';')?;
        Ok(vars)
    }

    /// `.align 8 .b8 name[16] = {..}` after its space; `None` for a parameter `_`.
    fn declaration(&mut self, space: &str) -> Result<Option<Var<'a>>, String> {
        let space = Space::named(&space[1..]).unwrap_or(Space::Param);
        let (mut ty, mut align, mut lanes) = (None, 0, 1u64);
        let name = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.int()? as u32,
                ".attribute" => self.skip_past(b')'),
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".ptr" | ".global" | ".shared" | ".const" | ".local" | ".generic" => {}
                _ if word.starts_with('.') => {
                    let Some(found) = Ty::named(&word[1..]) else {
                        return Err(format!("line {}: unknown type {word}", self.line()));
                    };
                    // In `.param .u64 .ptr .align 16 name` the alignment is the pointee's.
                    ty.get_or_insert(found);
                }
                _ => break word,
            }
        };
        let ty = ty.ok_or_else(|| format!("line {}: {name} has no type", self.line()))?;
        let size = lanes * self.extent()? * u64::from(ty.size());
        let own = (lanes as u32) * ty.size();
        let align = if space == Space::Param && size == u64::from(own) {
            own
        } else {
            align.max(own)
        };
        let mut init = Vec::new();
        if self.eat(b'=') {
            self.initialiser(&mut init)?;
        }
        Ok(Some(Var {
            name,
            space,
            ty,
            align,
            size,
            external: false,
            init,
        }))
    }

    /// `[2][3]` as a product, 1 without brackets, 0 for `[]`.
    fn extent(&mut self) -> Result<u64, String> {
        let mut count = 1;
        while self.eat(b'[') {
            if self.eat(b']') {
                count = 0;
                continue;
            }
            count *= self.int()? as u64;
            self.expect(b']')?;
        }
        Ok(count)
    }

    fn initialiser(&mut self, out: &mut Vec<Init<'a>>) -> Result<(), String> {
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initialiser(out)?;
                self.eat(b',');
            }
            return Ok(());
        }
        match self.kind() {
            Some(Kind::F32(bits)) => out.push(Init::Bits(u64::from(bits))),
            Some(Kind::F64(bits)) => out.push(Init::Bits(bits)),
            Some(Kind::Word(name)) => {
                self.at += 1;
                let name = if name == "generic" {
                    self.expect(b'(')?;
                    let inner = self.word()?;
                    self.expect(b')')?;
                    inner
                } else {
                    name
                };
                let offset = if self.eat(b'+') { self.int()? } else { 0 };
                out.push(Init::Symbol(name, offset));
                return Ok(());
            }
            _ => {
                out.push(Init::Bits(self.int()? as u64));
                return Ok(());
            }
        }
        self.at += 1;
        Ok(())
    }

    fn body(&mut self) -> Result<Vec<Stmt<'a>>, String> {
        let mut body = Vec::new();
        let mut depth = 0;
        loop {
            let Some(token) = self.peek() else {
                return self.wrong("`}`");
            };
            let line = token.line;
            let what = match token.kind {
                Kind::Punct(b'{') => {
                    self.at += 1;
                    depth += 1;
                    What::Open
                }
                Kind::Punct(b'}') => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(body);
                    }
                    depth -= 1;
                    What::Close
                }
                Kind::Punct(b';') => {
                    self.at += 1;
                    continue;
                }
                Kind::Word(word) if word.starts_with('.') => {
                    self.at += 1;
                    self.directive(word, line, &mut body)?;
                    continue;
                }
                Kind::Word(word)
                    if self.tokens.get(self.at + 1).map(|t| t.kind) == Some(Kind::Punct(b':')) =>
                {
                    self.at += 2;
                    What::Label(word)
                }
                _ => What::Inst(self.instruction()?),
            };
            body.push(Stmt {
                line,
                loc: self.loc,
                what,
            });
        }
    }

    fn directive(
        &mut self,
        word: &'a str,
        line: u32,
        body: &mut Vec<Stmt<'a>>,
    ) -> Result<(), String> {
        let loc = self.loc;
        let mut push = |what| body.push(Stmt { line, loc, what });
        match word {
            ".loc" => {
                self.loc = (self.int()? as u32, self.int()? as u32);
                self.skip_line(line);
            }
            ".file" => self.file(line)?,
            ".pragma" => self.skip_past(b';'),
            ".section" => self.skip_block(),
            ".callprototype" => self.skip_past(b';'),
            ".branchtargets" => {
                let mut targets = vec![self.word()?];
                while self.eat(b',') {
                    targets.push(self.word()?);
                }
                self.expect(b';')?;
                push(What::Targets(targets));
            }
            _ if word == ".reg" || word.starts_with(".reg.") => {
                let ty = match word.strip_prefix(".reg.") {
                    Some(ty) => ty,
                    None => &self.word()?[1..],
                };
                let Some(ty) = Ty::named(ty) else {
                    return Err(format!("line {line}: unknown register type {ty}"));
                };
                push(What::Reg(ty, self.registers()?));
            }
            ".shared" | ".local" | ".param" | ".const" | ".global" => {
                for var in self.vars(word)? {
                    push(What::Var(var));
                }
            }
            _ => return Err(format!("line {line}: unknown directive {word}")),
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<Vec<(&'a str, Option<u32>)>, String> {
        let mut names = Vec::new();
        loop {
            let name = self.word()?;
            let count = if self.eat(b'<') {
                let n = self.int()? as u32;
                self.expect(b'>')?;
                Some(n)
            } else {
                None
            };
            names.push((name, count));
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(names)
    }

    fn instruction(&mut self) -> Result<Ins<'a>, String> {
        let guard = if self.eat(b'@') {
            let not = self.eat(b'!');
            Some((self.word()?, not))
        } else {
            None
        };
        let op = self.word()?;
        let mut args = Vec::new();
        while !self.eat(b';') {
            args.push(self.arg()?);
            if !self.eat(b',') && self.kind() != Some(Kind::Punct(b';')) {
                return self.wrong("`,` or `;`");
            }
        }
        Ok(Ins { guard, op, args })
    }

    fn arg(&mut self) -> Result<Arg<'a>, String> {
        let Some(kind) = self.kind() else {
            return self.wrong("an operand");
        };
        match kind {
            Kind::F32(v) => {
                self.at += 1;
                Ok(Arg::F32(v))
            }
            Kind::F64(v) => {
                self.at += 1;
                Ok(Arg::F64(v))
            }
            Kind::Word(name) => {
                self.at += 1;
                if self.eat(b'|') {
                    return Ok(Arg::Pair(name, self.word()?));
                }
                if self.eat(b'+') {
                    return Ok(Arg::Plus(name, self.int()?));
                }
                Ok(Arg::Name(name))
            }
            Kind::Punct(b'!') => {
                self.at += 1;
                Ok(Arg::Not(self.word()?))
            }
            Kind::Punct(b'-')
                if matches!(
                    self.tokens.get(self.at + 1).map(|t| t.kind),
                    Some(Kind::F64(_))
                ) =>
            {
                self.at += 2;
                let Some(Kind::F64(v)) = self.tokens.get(self.at - 1).map(|t| t.kind) else {
                    return self.wrong("a number");
                };
                Ok(Arg::F64(v ^ (1 << 63)))
            }
            Kind::Punct(b'{') => {
                self.at += 1;
                Ok(Arg::Vec(self.args_until(b'}')?))
            }
            Kind::Punct(b'(') => {
                self.at += 1;
                Ok(Arg::List(self.args_until(b')')?))
            }
            Kind::Punct(b'[') => {
                self.at += 1;
                self.memory()
            }
            _ => Ok(Arg::Int(self.int()? as u64)),
        }
    }

    fn args_until(&mut self, end: u8) -> Result<Vec<Arg<'a>>, String> {
        let mut args = Vec::new();
        while !self.eat(end) {
            args.push(self.arg()?);
            self.eat(b',');
        }
        Ok(args)
    }

    fn memory(&mut self) -> Result<Arg<'a>, String> {
        let base = match self.kind() {
            Some(Kind::Word(name)) => {
                self.at += 1;
                Some(name)
            }
            _ => None,
        };
        let mut offset = 0i64;
        if base.is_none() || self.eat(b'+') || self.kind() == Some(Kind::Punct(b'-')) {
            offset = self.int()?;
        }
        if let (Some(base), 0) = (base, offset)
            && self.eat(b',')
        {
            let Arg::Vec(coordinates) = self.arg()? else {
                return self.wrong("coordinates");
            };
            self.expect(b']')?;
            return Ok(Arg::Box(base, coordinates));
        }
        self.expect(b']')?;
        Ok(Arg::Mem(base, offset))
    }
}
