//! An HTML page as the oracle sees it: a tree, and everything that is wrong
//! with it.
//!
//! html5ever builds the tree and lists the parse errors of the HTML standard.
//! The standard lets many tags be left out, so a page cut short could be free
//! of parse errors; the pages we judge have their html, head, title and body
//! and close what they open, so a tag of these that is missing, and any that is
//! not closed, is an error here as well.

use html5ever::buffer_queue::BufferQueue;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{
    StartTag, Tag, TagToken, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use html5ever::tree_builder::{
    ElementFlags, NodeOrText, QuirksMode, TreeBuilder, TreeBuilderOpts, TreeSink,
};
use html5ever::{Attribute, ExpandedName, LocalName, QualName, TokenizerResult, local_name, ns};
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

/// A parsed page.
pub(super) struct Page {
    nodes: Vec<Node>,
    /// What is wrong with it; empty for a valid page.
    pub(super) errors: Vec<String>,
}

#[derive(Default)]
struct Node {
    name: Option<Rc<QualName>>,
    attrs: Vec<Attribute>,
    text: String,
    children: Vec<usize>,
    parent: Option<usize>,
}

/// The root of the tree, the document itself.
const DOCUMENT: usize = 0;

impl Page {
    /// Parses a whole page.
    pub(super) fn parse(html: &str) -> Page {
        let sink = Sink::default();
        let opts = TreeBuilderOpts {
            exact_errors: true,
            scripting_enabled: false,
            ..Default::default()
        };
        let balance = Balance {
            tree: TreeBuilder::new(sink, opts),
            open: RefCell::default(),
            errors: RefCell::default(),
            missing: RefCell::new(vec!["html", "head", "title", "body"]),
        };
        let opts = TokenizerOpts {
            exact_errors: true,
            discard_bom: false,
            ..Default::default()
        };
        let tokenizer = Tokenizer::new(balance, opts);
        let input = BufferQueue::default();
        input.push_back(StrTendril::from_slice(html));
        // A script or an encoding's name interrupts the parser; neither
        // changes anything for us.
        while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
        tokenizer.end();
        let balance = tokenizer.sink;
        let mut page = balance.tree.sink.0.into_inner();
        page.errors.extend(balance.errors.into_inner());
        if let Some(open) = balance.open.into_inner().last() {
            page.errors.push(format!("<{open}> is not closed"));
        }
        let missing = balance.missing.into_inner();
        page.errors
            .extend(missing.iter().map(|name| format!("no <{name}>")));
        page
    }

    /// The elements with this id, in document order.
    pub(super) fn by_id(&self, id: &str) -> Vec<usize> {
        self.walk(DOCUMENT)
            .filter(|&i| {
                let attrs = &self.nodes[i].attrs;
                attrs
                    .iter()
                    .any(|a| a.name.local == local_name!("id") && *a.value == *id)
            })
            .collect()
    }

    /// Whether an element has this tag name.
    pub(super) fn is(&self, node: usize, name: &str) -> bool {
        self.nodes[node]
            .name
            .as_ref()
            .is_some_and(|q| q.ns == ns!(html) && *q.local == *name)
    }

    /// All text in and below a node.
    pub(super) fn text(&self, node: usize) -> String {
        self.walk(node)
            .map(|i| self.nodes[i].text.as_str())
            .collect()
    }

    /// All text of the page.
    pub(super) fn whole_text(&self) -> String {
        self.text(DOCUMENT)
    }

    fn walk(&self, from: usize) -> impl Iterator<Item = usize> {
        let mut stack = vec![from];
        std::iter::from_fn(move || {
            let next = stack.pop()?;
            stack.extend(self.nodes[next].children.iter().rev());
            Some(next)
        })
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn detach(&mut self, node: usize) {
        if let Some(parent) = self.nodes[node].parent.take() {
            self.nodes[parent].children.retain(|&c| c != node);
        }
    }

    fn insert(&mut self, parent: usize, at: usize, child: NodeOrText<Handle>) {
        let id = match child {
            NodeOrText::AppendNode(handle) => {
                self.detach(handle.id);
                handle.id
            }
            NodeOrText::AppendText(text) => self.add(Node {
                text: text.to_string(),
                ..Default::default()
            }),
        };
        let at = at.min(self.nodes[parent].children.len());
        self.nodes[parent].children.insert(at, id);
        self.nodes[id].parent = Some(parent);
    }
}

/// A node as html5ever holds it.
#[derive(Clone)]
struct Handle {
    id: usize,
    name: Rc<QualName>,
}

struct Sink(RefCell<Page>);

impl Default for Sink {
    fn default() -> Self {
        Sink(RefCell::new(Page {
            nodes: vec![Node::default()],
            errors: Vec::new(),
        }))
    }
}

impl Sink {
    fn handle(&self, node: Node) -> Handle {
        let name = node.name.clone().unwrap_or_else(no_name);
        let id = self.0.borrow_mut().add(node);
        Handle { id, name }
    }
}

fn no_name() -> Rc<QualName> {
    Rc::new(QualName::new(None, ns!(), LocalName::from("")))
}

impl TreeSink for Sink {
    type Handle = Handle;
    type Output = Self;
    type ElemName<'a> = ExpandedName<'a>;

    fn finish(self) -> Self {
        self
    }

    fn parse_error(&self, msg: Cow<'static, str>) {
        self.0.borrow_mut().errors.push(msg.into_owned());
    }

    fn get_document(&self) -> Handle {
        Handle {
            id: DOCUMENT,
            name: no_name(),
        }
    }

    fn elem_name<'a>(&'a self, target: &'a Handle) -> ExpandedName<'a> {
        target.name.expanded()
    }

    fn create_element(&self, name: QualName, attrs: Vec<Attribute>, _: ElementFlags) -> Handle {
        self.handle(Node {
            name: Some(Rc::new(name)),
            attrs,
            ..Default::default()
        })
    }

    fn create_comment(&self, _: StrTendril) -> Handle {
        self.handle(Node::default())
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> Handle {
        self.handle(Node::default())
    }

    fn append(&self, parent: &Handle, child: NodeOrText<Handle>) {
        self.0.borrow_mut().insert(parent.id, usize::MAX, child);
    }

    fn append_based_on_parent_node(
        &self,
        element: &Handle,
        prev_element: &Handle,
        child: NodeOrText<Handle>,
    ) {
        if self.0.borrow().nodes[element.id].parent.is_some() {
            self.append_before_sibling(element, child);
        } else {
            self.append(prev_element, child);
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn get_template_contents(&self, target: &Handle) -> Handle {
        target.clone()
    }

    fn same_node(&self, x: &Handle, y: &Handle) -> bool {
        x.id == y.id
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        if mode != QuirksMode::NoQuirks {
            self.parse_error(Cow::Borrowed("not a page in standards mode"));
        }
    }

    fn append_before_sibling(&self, sibling: &Handle, new_node: NodeOrText<Handle>) {
        let mut page = self.0.borrow_mut();
        if let NodeOrText::AppendNode(node) = &new_node {
            page.detach(node.id);
        }
        let Some(parent) = page.nodes[sibling.id].parent else {
            return;
        };
        let children = &page.nodes[parent].children;
        let at = children.iter().position(|&c| c == sibling.id);
        page.insert(parent, at.unwrap_or(usize::MAX), new_node);
    }

    fn add_attrs_if_missing(&self, target: &Handle, attrs: Vec<Attribute>) {
        let known = &mut self.0.borrow_mut().nodes[target.id].attrs;
        for attr in attrs {
            if !known.iter().any(|a| a.name == attr.name) {
                known.push(attr);
            }
        }
    }

    fn remove_from_parent(&self, target: &Handle) {
        self.0.borrow_mut().detach(target.id);
    }

    fn reparent_children(&self, node: &Handle, new_parent: &Handle) {
        let mut page = self.0.borrow_mut();
        let children = std::mem::take(&mut page.nodes[node.id].children);
        for &child in &children {
            page.nodes[child].parent = Some(new_parent.id);
        }
        page.nodes[new_parent.id].children.extend(children);
    }
}

/// Sits between tokenizer and tree builder and sees every tag as written.
struct Balance {
    tree: TreeBuilder<Handle, Sink>,
    open: RefCell<Vec<LocalName>>,
    errors: RefCell<Vec<String>>,
    /// Start tags that every page of ours has and this one lacks so far.
    missing: RefCell<Vec<&'static str>>,
}

impl Balance {
    fn tag(&self, tag: &Tag) {
        let mut open = self.open.borrow_mut();
        if tag.kind == StartTag {
            self.missing.borrow_mut().retain(|name| *tag.name != **name);
            if !is_void(&tag.name) {
                open.push(tag.name.clone());
            }
            return;
        }
        let expected = open.pop();
        if expected.as_ref() != Some(&tag.name) {
            let expected = expected.map_or("none".into(), |name| format!("</{name}>"));
            self.errors
                .borrow_mut()
                .push(format!("</{}> where {expected} should be", tag.name));
        }
    }
}

impl TokenSink for Balance {
    type Handle = Handle;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<Handle> {
        if let TagToken(tag) = &token {
            self.tag(tag);
        }
        self.tree.process_token(token, line)
    }

    fn end(&self) {
        self.tree.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.tree
            .adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// The elements that have no end tag.
fn is_void(name: &LocalName) -> bool {
    matches!(
        &**name,
        "area"
            | "base"
            | "br"
            | "col"
            | "embed"
            | "hr"
            | "img"
            | "input"
            | "link"
            | "meta"
            | "source"
            | "track"
            | "wbr"
    )
}
