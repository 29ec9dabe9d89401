r"""What a token of the Penn Treebank looks like: the rules of Stanford CoreNLP 3.4.1, as a table.

In force is the longest match and, of equally long ones, the first rule (see `jobs.lexer`). `{NAME}`
is a definition; a letter outside `[ ]` stands for both cases. What looks odd is kept, because
published figures were measured with it: `,-_` in HOST is a range, so that the host of a `.com`
address holds no capitals, and some states are abbreviated only when they begin with one.

Facts from PTBLexer.flex of CoreNLP 3.4.1, https://github.com/stanfordnlp/CoreNLP (tag v3.4.1).
"""

import re
from collections.abc import Callable
from functools import cache

from jobs.lexer import Rule

NEWLINE = "\n"  # the token of a line's end

# Letters of the basic plane that Unicode got after 6.0, which is what CoreNLP 3.4.1 knows.
_NEWER_LETTERS = (
    "\u037f\u0528-\u052f\u0560\u0588\u05ef\u0860-\u086a\u0870-\u0887\u0889-\u088e\u08a1"
    "\u08ad-\u08c9\u0978\u0980\u09fc\u0af9\u0c34\u0c5a\u0c5d\u0c80\u0cdd\u0d04\u0d54-\u0d56\u0d5f"
    "\u0e86\u0e89\u0e8c\u0e8e-\u0e93\u0e98\u0ea0\u0ea8-\u0ea9\u0eac\u13f5\u13f8-\u13fd"
    "\u16f1-\u16f8\u170d\u171f\u1878\u191d-\u191e\u19b0-\u19c0\u19c8-\u19c9\u1b4c\u1c80-\u1c88"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1cf2-\u1cf3\u1cfa\u2c2f\u2c5f\u312e-\u312f\u31bb-\u31bf"
    "\u4db6-\u4dbf\u9fcd-\u9fff\ua698-\ua69d\ua78f\ua794-\ua79f\ua7ab-\ua7ca\ua7d0-\ua7d1\ua7d3"
    "\ua7d5-\ua7d9\ua7f2-\ua7f7\ua8fd-\ua8fe\ua9e0-\ua9e4\ua9e6-\ua9ef\ua9fa-\ua9fe\uaa7e-\uaa7f"
    "\uab30-\uab5a\uab5c-\uab69\uab70-\uabbf"
)
_FORMER_LETTERS = "\u1885\u1886"  # letters in 6.0, marks since
_NEWER_DIGITS = "\u0de6-\u0def\ua9f0-\ua9f9"

# Marks and signs that may stand in a word as letters do.
_WORD_MARKS = (
    "\u00ad\u0237-\u024f\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02ff\u0300-\u036f\u0370-\u037d"
    "\u0384\u0385\u03cf\u03f6\u03fc-\u03ff\u0483-\u0487\u04cf\u04f6-\u04ff\u0510-\u0525"
    "\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u063b-\u063f"
    "\u064b-\u065e\u0670\u06d6-\u06ef\u06fa-\u06ff\u070f\u0711\u0730-\u074f\u0750-\u077f"
    "\u07a6-\u07b1\u07ca-\u07f5\u07fa\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962-\u0963"
    "\u0981-\u0983\u09bc-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c"
    "\u0a3e-\u0a4f\u0a81-\u0a83\u0abc-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd"
    "\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e30-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc"
    "\u0ec8-\u0ecd"
)
_SYMBOLS = (
    r"+%&~\^|\\\u00a6\u00a7\u00a8\u00a9\u00ac\u00ae\u00af\u00b0-\u00b3\u00b4-\u00ba\u00d7\u00f7"
    r"\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b\u061e"
    r"\u066a\u066d\u0703-\u070d\u07f6\u07f7\u07f8\u0964\u0965\u0e4f\u1fbd\u2016\u2017"
    r"\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f"
    r"\u2190-\u21ff\u2200-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)

_WEB = r" \t\n\f\r\"<>|"  # what no address holds
_COUNTRIES = r"(Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(U\.K|U\.S\.S\.R)"

_FIXED = {
    # what ends and parts words
    "SPACE": r"[ \t\u00a0\u2000-\u200a\u3000]",
    "NEWLINE": r"[\n\r\u2028\u2029\u000b\u000c\u0085]",
    "BLANK": r"{SPACE}|{NEWLINE}",
    "SENTENCE_END": r"{BLANK}({BLANK}|{CAPITAL}|{TAG})",
    "INNER_PUNCTUATION": r"[,;:\u3001]",
    "HYPHEN": r"[-_\u058a\u2010\u2011]",
    "APOSTROPHE": r"['\u0092\u2019]|&apos;",
    "APOSTROPHE_LIKE": r"{APOSTROPHE}|[`\u0091\u2018\u201b]",
    "DOUBLE_QUOTE": r"\"|&quot;",
    # words
    "PLAIN": r"{ALPHABETIC}|{NUMERAL}",
    "WORD": r"{LETTER}({LETTER}|{DIGIT})*([.!?]{LETTER}({LETTER}|{DIGIT})*)*",
    "CLITIC": r"{APOSTROPHE}([msdMSD]|re|ve|ll)",
    "NOT": r"n{APOSTROPHE_LIKE}t",
    "BEFORE_NOT": r"[A-Za-z\u00ad]*[A-MO-Za-mo-z][\u00ad]*",
    "APOSTROPHE_WORD": (
        r"{APOSTROPHE}n{APOSTROPHE}?|[lLdDjJ]{APOSTROPHE}|Dunkin{APOSTROPHE}"
        r"|somethin{APOSTROPHE}|ol{APOSTROPHE}|{APOSTROPHE}em"
        r"|[A-HJ-XZn]{APOSTROPHE_LIKE}{ALPHABETIC}{ALPHABETIC}+|{APOSTROPHE}[2-9]0s"
        r"|{APOSTROPHE}till?|{ALPHABETIC}+[aeiouyAEIOUY]{APOSTROPHE_LIKE}[aeiouA-Z]"
        r"{ALPHABETIC}*|{APOSTROPHE}cause|cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry"
        r"|li'l|nat'l|O{APOSTROPHE_LIKE}o"
    ),
    "FRENCH": r"[dDoOlL]{APOSTROPHE_LIKE}{PLAIN}",
    "COMPOUND": r"({FRENCH})?{PLAIN}+({HYPHEN}({FRENCH})?{PLAIN}+)*",
    "CAPITALS": r"[A-Z]+(([+&]|&amp;)[A-Z]+)+",
    "SLASHED": (r"[A-Za-z0-9]+(-[A-Za-z]+){0,2}(\\?/[A-Za-z0-9]+(-[A-Za-z]+){0,2}){1,2}"),
    "HYPHENATED": r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(-([A-Za-z0-9\u00ad]+|{LONG_ACRONYM}\.))+",
    "TREEBANK": (
        r"-(RRB|LRB|RCB|LCB|RSB|LSB)-|C\.D\.s|pro-|anti-|S(&|&amp;)P-500|S(&|&amp;)Ls"
        r"|Cap{APOSTROPHE}n|c{APOSTROPHE}est"
    ),
    # numbers
    "DATE": r"{DIGIT}{1,2}[-/]{DIGIT}{1,2}[-/]{DIGIT}{2,4}",
    "NUMBER": r"[-+]?({DIGIT}+|{DIGIT}*([.:,\u00ad\u066b\u066c]{DIGIT}+)+)",
    "SMALL_NUMBER": (
        r"[\u207a\u207b\u208a\u208b]?([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"
    ),
    "FRACTION": r"({DIGIT}{1,4}[- \u00a0])?{DIGIT}{1,4}(\\?/|[\u2044]){DIGIT}{1,4}",
    "PHONE": (
        r"(\([0-9]{2,3}\)[ \u00a0]?|(\+\+?)?([0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
        r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}|((\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
    ),
    # addresses and names of files
    "URL": rf"https?://[^{_WEB}()" r"{}]+" rf"[^{_WEB}.!?()" r"{},-]",
    "PATH": rf"/[^{_WEB}()]+[^{_WEB}.!?()" r"{},-]",
    "HOST": (
        rf"www\.([^{_WEB}.!?()"
        r"{},]+\.)+[a-zA-Z]{2,4}"
        r"|([^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(com|net|org|edu)"
    ),
    "EMAIL": (
        rf"(&lt;|<)?[a-zA-Z0-9][^{_WEB}()\u00a0"
        r"{}]*@"
        rf"([^{_WEB}()"
        r"{}.\u00a0]+\.)*"
        rf"[^{_WEB}()"
        r"{}.\u00a0]+(&gt;|>)?"
    ),
    "TAG": (
        r"<([!?][A-Za-z\-][^>\r\n]*"
        r"|{TAG_NAME}([ ]+({TAG_NAME}|{TAG_NAME}[ ]*=[ ]*('[^']*'|\"[^\"]*\")))*[ ]*/?"
        r"|/{TAG_NAME})[ ]*>"
    ),
    "TAG_NAME": r"[A-Za-z][A-Za-z0-9_:.\-]*",
    "FILE": (
        r"({LETTER}|{DIGIT})+(\.({LETTER}|{DIGIT})+)*\.(bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe"
        r"|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x"
        r"|xml|zip)"
    ),
    # abbreviations
    "ACRONYM": rf"[A-Za-z](\.[A-Za-z])*|{_COUNTRIES}",
    "LONG_ACRONYM": rf"[A-Za-z](\.[A-Za-z])+|{_COUNTRIES}",
    "BEFORE_SMALL": (  # a capital after it begins a sentence
        r"(Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|Mon|Tue|Tues|Wed|Thu|Thurs|Fri"
        r"|Ala|Ariz|[A]z|[A]rk|Calif|Colo|Conn|Ct|Dak|[D]el|Fla|Ga|[I]ll|Ind|Kans?|Ky|[L]a|[M]ass"
        r"|Md|Mich|Minn|[M]iss|Mo|Mont|Neb|Nev|Okla|[O]re|[P]a|Penn|Tenn|[T]ex|Va|Vt|[W]ash|Wisc?"
        r"|Wyo|Inc|Cos?|Corp|Pp?t[ye]s?|Ltd|Plc|Rt|Bancorp|Bhd|Assn|Univ|Intl|Sys"
        r"|tel|est|ext|sq|Jr|Sr|Bros|(Ed|Ph)\.D|Blvd|Rd|Esq|etc|al|seq|Bldg)\."
    ),
    "BEFORE_CAPITAL": (  # goes with what follows
        r"Mr|Mrs|Ms|[M]iss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt"
        r"|Cpl|Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst"
        r"|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc|vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|TREAS|Ph|{ACRONYM}"
        r"|Invt|Elec|Natl|M[ft]g|Dept"
    ),
    "BEFORE_NUMBER": r"(ca|figs?|prop|nos?|art|bldg|prop|pp|op)\.",
    "SENTENCE_OPENER": (  # a sentence ended with the acronym before it
        r"[A]bout|[A]ccording|[A]dditionally|[A]fter|[A]n|[A]|[A]s|[A]t|[B]ut|[E]arlier|[H]e"
        r"|[H]er|[H]ere|[H]owever|[I]f|[I]n|[I]t|[L]ast|[M]any|[M]ore|[M]r\.|[M]s\.|[N]ow"
        r"|[O]nce|[O]ne|[O]ther|[O]ur|[S]he|[S]ince|[S]o|[S]ome|[S]uch|[T]hat|[T]he|[T]heir"
        r"|[T]hen|[T]here|[T]hese|[T]hey|[T]his|[W]e|[W]hen|[W]hile|[W]hat|[Y]et|[Y]ou"
    ),
    # marks
    "DASH": r"&(MD|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]",
    "ENTITY": r"&(HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);",
    "DOTS": r"\.{3,5}|(\.[ \u00a0]){2,4}\.|[\u0085\u2026]",
    "QUOTES": (
        r"{APOSTROPHE}|''|[`\u2018\u2019\u201a\u201b\u201c\u201d\u0091\u0092\u0093\u0094\u201e"
        r"\u201f\u2039\u203a\u00ab\u00bb]{1,2}"
    ),
    "CURRENCY": (
        r"[\u00a2\u00a3\u00a4\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]"
    ),
    "SMILEY": r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]",
    "ASIAN_SMILEY": (
        r"[\^x=~<>]\.\[\^x=~<>]|[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)"
        r"|\([\^x=~<>']-[\^x=~<>'`]\)"
    ),
}


def _unquoted(text: str) -> str:
    """Quotes as LaTeX writes them; a straight one closes."""
    for pattern, quote in (
        ("&apos;|[\u0092\u2019\u203a]", "'"),
        ('"|&quot;|[\u0094\u201d\u00bb]', "''"),
        ("[\u0091\u2018\u201b\u2039]", "`"),
        ("[\u0093\u201c\u00ab]", "``"),
    ):
        text = re.sub(pattern, quote, text)
    return text


def _opened(text: str) -> str:
    """The same for a quote that opens."""
    return {"'": "`", '"': "``", "&quot;": "``"}.get(text, text)


def _becomes(token: str | None) -> Callable[[str], str | None]:
    return lambda _: token


def _without_soft_hyphens(text: str) -> str:
    return text.replace("\u00ad", "") or "-"


def _unspaced(text: str) -> str:
    """One token, whatever spaces it holds."""
    return text.replace(" ", "\u00a0")


def _bracketed(text: str) -> str:
    return text.replace("(", "-LRB-").replace(")", "-RRB-")


def _phone(text: str) -> str:
    return _bracketed(_unspaced(text))


def _ampersand(text: str) -> str:
    return re.sub("&amp;", "&", text, flags=re.IGNORECASE)


def _currency(text: str) -> str:
    if text in "\u0080\u00a4\u20a0\u20ac":
        return "$"
    return {"\u00a2": "cents", "\u00a3": "#"}.get(text, text)


def _vulgar_fraction(text: str) -> str:
    named = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
    return named.get(text, text)


def _dashes(text: str) -> str:
    return "--" if len(text) in (3, 4) else text


def _acronym(text: str) -> str:
    """With its period, unless it is a single letter."""
    return text[:-1] if len(text) == 2 else text


RULES = (
    Rule(r"c[+][+]"),
    Rule("(c|f)#"),
    Rule("cannot", give_back=3),
    Rule("'twas", give_back=3),
    Rule("'tis", give_back=2),
    Rule("gonna|gotta|lemme|gimme|wanna", give_back=2),
    Rule("{TAG}", _unspaced),
    Rule("{DASH}", _becomes("--")),
    Rule("&amp;", _ampersand),
    Rule("{ENTITY}"),
    Rule("{WORD}", _without_soft_hyphens, follow="{CLITIC}"),
    Rule("{BEFORE_NOT}", _without_soft_hyphens, follow="{NOT}"),
    Rule("{WORD}", _without_soft_hyphens),
    Rule("{APOSTROPHE_WORD}"),
    Rule("y{APOSTROPHE}", follow="{ALPHABETIC}"),
    Rule("{URL}"),
    Rule("({HOST}){PATH}?"),
    Rule("{EMAIL}"),
    Rule("@[a-zA-Z_][a-zA-Z_0-9]*|#{LETTER}+"),
    Rule("{CLITIC}", _unquoted, follow="[^A-Za-z]"),
    Rule("{NOT}", _unquoted, follow="[^A-Za-z]"),
    Rule("{DATE}"),
    Rule("{NUMBER}", _without_soft_hyphens),
    Rule("{SMALL_NUMBER}"),
    Rule("{FRACTION}", _unspaced),
    Rule("[\u00bc\u00bd\u00be\u2153-\u215e]", _vulgar_fraction),
    Rule("{TREEBANK}", _ampersand),
    Rule("{SLASHED}"),
    Rule(r"[A-Z]*\$|#"),
    Rule("{CURRENCY}", _currency),
    Rule(
        r"({ACRONYM})\.",
        _acronym,
        follow="{BLANK}+({SENTENCE_OPENER}|{TAG}){BLANK}",
        give_back=1,
        is_given_back_too=True,
    ),
    Rule("{BEFORE_NUMBER}", follow="{BLANK}?{NUMERAL}"),
    Rule(r"(pt[eyEY]|co)\.", follow="{SPACE}(ltd|lim)"),
    Rule("{BEFORE_SMALL}", follow="{SENTENCE_END}", give_back=1, is_given_back_too=True),
    Rule("{BEFORE_SMALL}", follow=".."),
    Rule("{BEFORE_SMALL}", give_back=1, is_given_back_too=True),
    Rule(r"({BEFORE_CAPITAL})\."),
    Rule("{BEFORE_CAPITAL}", follow="{SPACE}"),
    Rule("{ACRONYM}", follow="{BLANK}"),
    Rule("{APOSTROPHE}[0-9][0-9]", follow="{BLANK}"),
    Rule("{FILE}", follow="{BLANK}|[.?!,]"),
    Rule(r"{WORD}\.", _without_soft_hyphens, follow="{INNER_PUNCTUATION}"),
    Rule("{PHONE}", _phone),
    Rule("{DOUBLE_QUOTE}", _opened, follow="[A-Za-z0-9$]"),
    Rule("{DOUBLE_QUOTE}", _unquoted),
    Rule("[\u007f]", _becomes(None)),
    Rule("<|&lt;", _becomes("<")),
    Rule(">|&gt;", _becomes(">")),
    Rule("{SMILEY}", _bracketed, follow="[^A-Za-z0-9]"),
    Rule("{ASIAN_SMILEY}", _bracketed),
    Rule(r"\{", _becomes("-LCB-")),
    Rule(r"\}", _becomes("-RCB-")),
    Rule(r"\[", _becomes("-LSB-")),
    Rule(r"\]", _becomes("-RSB-")),
    Rule(r"\(", _becomes("-LRB-")),
    Rule(r"\)", _becomes("-RRB-")),
    Rule("-+", _dashes),
    Rule("{DOTS}", _becomes("...")),
    Rule("@+|#+|_+"),
    Rule(r"\*+|(\\\*){1,3}"),
    Rule("{INNER_PUNCTUATION}"),
    Rule("[?!]+"),
    Rule("[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
    Rule("="),
    Rule("/"),
    Rule(r"{HYPHENATED}\.", _without_soft_hyphens, follow="{INNER_PUNCTUATION}"),
    Rule("{HYPHENATED}", _without_soft_hyphens),
    Rule(r"{COMPOUND}\.", follow="{INNER_PUNCTUATION}"),
    Rule("{COMPOUND}"),
    Rule(r"{CAPITALS}\.", _ampersand, follow="{INNER_PUNCTUATION}"),
    Rule("{CAPITALS}", _ampersand),
    Rule("'", _opened, follow=r"[A-Za-z][^ \t\n\r\u00a0]"),
    Rule("{CLITIC}", _unquoted),
    Rule("{NOT}", _unquoted),
    Rule("{QUOTES}", _unquoted),
    Rule("<<|>>"),
    Rule(f"[{_SYMBOLS}]"),
    Rule("{SPACE}+|[\u0000\u200b\u200e\u200f\ufeff]", _becomes(None)),
    Rule("{NEWLINE}", _becomes(NEWLINE)),
    Rule("&nbsp;", _becomes(None)),
)


@cache
def definitions() -> dict[str, str]:
    """The patterns that rules name."""
    letters = _ranges(lambda one: one.isalpha() and not re.match(f"[{_NEWER_LETTERS}]", one))
    digits = _ranges(lambda one: one.isdecimal() and not re.match(f"[{_NEWER_DIGITS}]", one))
    return {
        **_FIXED,
        "ALPHABETIC": f"[{letters}{_FORMER_LETTERS}]",
        "LETTER": f"[{letters}{_FORMER_LETTERS}{_WORD_MARKS}]|&[aeiouAEIOU](acute|grave|uml);",
        "NUMERAL": f"[{digits}]",
        "DIGIT": f"[{digits}\u07c0-\u07c9]",
        "CAPITAL": f"[{_ranges(str.isupper)}]",
    }


def _ranges(is_in: Callable[[str], bool]) -> str:
    """The characters of the basic plane for which something holds, as a class is written."""
    ranges: list[list[int]] = []
    for code in range(0x10000):
        if is_in(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
