"""What a caption must not say: refusals, talk about the task, injected instructions, markup, the prompt itself, absent
things, hedges.

Patterns look at the caption's own voice, outside quotations, except for instructions and control tokens, which are as
dangerous inside.
"""

from __future__ import annotations

import re
import unicodedata

from operators.validators import Finding
from operators.validators.form import tokens
from operators.validators.sentences import outside_quotes


def _any(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


REFUSAL = _any(
    r"\bas an? (?:AI|artificial|large language|language model|assistant)",
    r"\bI(?:'m| am|’m) (?:sorry|unable|afraid|not able|an? (?:AI|assistant))",
    r"\bI (?:can(?:not|'t|’t)|could not|couldn't|do not|don't|am unable)",
    r"\b(?:sorry|unfortunately)[,:]",
    r"\bunable to (?:view|see|describe|process|identify)",
    r"抱歉|对不起|很遗憾",
    r"(?:作为|我是)(?:一个|一名)?(?:AI|人工智能|语言模型|助手)",
    r"我(?:无法|不能|没有办法|看不到)",
    r"无法(?:查看|识别|描述|提供|处理|显示)(?:图|该|这|您|你|内容)",
)
META = _any(
    r"^(?:sure|certainly|of course|okay|absolutely)\b[,!.:]",
    r"\bhere(?:'s| is| are) (?:a|an|the|your) [^.]{0,30}(?:description|caption|paragraph|translation)",
    r"\b(?:I hope|let me know|feel free|would you like|as (?:you )?requested|if you (?:need|want|have))\b",
    r"\bthe (?:user(?!['’]?s? (?:interface|name|account|profile|icon|avatar|menu|screen))|prompt|instructions?(?! (?:board|book|card|"
    r"manual|panel|plate|sheet|sign)))\b|\bword count\b",
    r"\bthis is an? (?:\w+ )?(?:description|caption)\b|\bthe (?:description|caption) (?:above|below is)\b|\bin (?:conclusion|summary),",
    r"\bbased on (?:the|this|your) (?:image|picture|photo)|\bprovided (?:image|picture|photo)|\b(?:image|picture|photo) provided\b",
    r"\b(?:this|the above) (?:description|caption|paragraph) (?:is|was|has|contains|describes|captures|covers|gives|provides|focuses"
    r"|highlights|aims|includes|summari[sz]es)\b",
    r"\bI (?:really |personally )?(?:think|believe|guess|assume|see|imagine|suppose|like|love)\b|\bin my (?:opinion|view)\b",
    r"\byou (?:provided|uploaded|shared|sent|can|see|may|might|will|look|notice)\b|\bwe (?:can |could )?(?:see|observe|notice)\b",
    r"\byou['’]ll\b|\bhope(?:fully)?\b[^.]{0,30}\bhelp|\bmy (?:description|caption|analysis)\b|我(?:将|会)(?:从|为|对|先|按|描述)",
    r"\bplease note\b|^note that\b|\blet(?:'|’)s\b|^\(?(?:note|disclaimer)\s*:|^(?:image|picture|photo) (?:description|caption)\s*:",
    r"我(?:认为|觉得|猜|想象)|在我看来|我们(?:可以|能)?(?:看到|看见|发现|注意到)|需要注意的是|根据(?:这张)?(?:图|照)[片像]?(?:内容|信息|描述)",
    r"^(?:caption|description|note|answer|translation)\s*:",
    r"^(?:好的|当然|没问题)[，,！!。]",
    r"^(?:(?:图片|图像|照片|画面|详细|中文)?(?:描述|说明|标题)|答|回答|答案|译文|翻译|输出)[：:]|(?:^|[，。：:\n])(?:以下(?:是|为)|以上(?:就|便)是)",
    r"(?:您|你)(?:所)?(?:提供|上传|发送|给出)|我来(?:描述|介绍|看|说)|让我们",
    r"如需|随时告诉我|根据(?:要求|指示|提示)|(?:上面的|本)描述|这是(?:一段|一份|对)[^，。“]{0,12}描述|我个人|我(?:很|非常|十分)?喜欢",
    r"希望(?:这|对你|对您|能)|根据(?:您|你)的|如(?:果)?(?:您|你)|(?:您|你)(?:可以|需要|想)|需要更多",
    r"(?:这段|上述|以上|该段)(?:描述|文字|内容)|字数|请注意|用户(?!界面|名|头像|图标|评论|信息|账|手册|指南)|提示词",
)
INJECTION = _any(
    r"\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instruction|prompt|rule|direction|above|previous)s?\b",
    r"\bsystem (?:prompt|message)\b|\byou are now\b|\bnew instructions?\b",
    r"\b(?:respond|reply|answer|output) (?:only )?with\b|\b(?:jailbreak|developer mode)\b",
    r"<\|[^<>]{0,40}\|?>|</?(?:system|user|assistant|im_start|im_end)>",
    r"(?:^|[.!?。！？\n])\s*(?:system|assistant|user|系统|助手|用户)\s*[:：]",
    r"(?:忽略|无视|忘记|不要理会).{0,10}(?:指令|指示|提示|要求|规则|内容)",
    r"系统(?:提示|消息|指令)|你现在是|请?只(?:回答|回复|输出)|新的指令",
)
ADDRESS = _any(
    r"https?:|\bwww\.|(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.\w",
    r"(?<![\w-])[\w-]{1,64}\.(?:com|cn|net|org|io|ru|xyz|top|info|biz|co)\b",
    r"(?:微信|QQ|电话|手机)(?:号码?|群)?(?:[：:是为]\s*)?[A-Za-z0-9_-]{5,}",
)
MARKUP = _any(
    r"```|\*\*|(?:^|\n)\s*(?:#{1,6}|[-*•·]|\d{1,2}[.)、])\s+\S",
    r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:[a-z]{2,8}|#\d+);",
    r"!?\[[^\]]*\]\([^)]*\)|[{}]|\\[nrtu\"]|\|\s*[-:]+\s*\||\$(?![\s\d])[^$\n]{1,80}(?<!\s)\$(?!\d)",
    r"(?:^|[。\n])\s*【[^】]*】|[\U0001f300-\U0001faff\u2728\u2b50\u2705\u274c]",
    r"(?:^|[.\n]\s*)(?:foreground|background|middle ground|lighting|light|colou?rs?|style|composition|mood|atmosphere|setting"
    r"|subject|objects?|elements|details)\s*:|[.。]\s*[*•·]\s+\S",
    r"(?:^|[。\n]\s*)(?:前景|中景|背景|远景|近景|主体|物体|物品|人物|光线|色彩|色调|风格|构图|氛围|环境|细节)[：:]",
)
DISGUISED = re.compile("[A-Za-z][\u0400-\u052f]|[\u0400-\u052f][A-Za-z]")
"""Latin and Cyrillic in one word: letters that look like others, to get past what reads them."""
SPACED = re.compile(r"\b(?:[A-Za-z] ){3,}[A-Za-z]\b")
SEEN = r"(?:visible|present|seen|shown|depicted|in (?:the|this) (?:picture|image|scene|frame|photo))"
ABSENT = _any(
    rf"\bno [\w\s,-]{{1,60}}?\b(?:is|are|can be|appears?) {SEEN}",
    r"\bthere (?:isn|aren)['’]t\b|\b(?:nobody|no one) else\b|\blacks? any\b|\bwith no (?:other|additional)\b",
    r"\bthere (?:is|are|appears? to be|seems? to be) (?:no\b|not any\b|nothing\b|none\b|neither\b)",
    r"\bwithout any (?:other |visible |additional )|\bnothing else\b",
    r"\b(?:does not|do not|doesn't|don't) (?:show|contain|include|feature|depict)",
    r"\b(?:is|are) (?:not visible|not present|not shown|absent|missing from)\b",
    r"\bcannot be (?:seen|made out)\b|\bthere['’]s (?:no|not|nothing|nobody)\b",
    rf"\bnone of the [\w\s]{{1,40}} (?:is|are) {SEEN}|\bnothing (?:is|can be) (?:shown|seen|visible)\b",
    r"\b(?:picture|image|scene|photo) (?:has|contains|shows) no\b",
    r"\bno [\w\s,-]{1,60}?\b(?:in sight|in view|to be seen)\b",
    r"\bdevoid of\b|\bfree of (?:any |other )?(?:people|persons?|humans?|text|cars|objects)\b",
    r"没有(?:人物?|行人|车辆?|文字)(?=[，。；！]|$)|没有可以?(?:辨认|识别)|不见(?:任何|其他)|没有(?:其他|任何|别的|多余|明显的?|可见的?|出现|看到|显示)|没有[^，。；]{1,12}(?:出现|可见|存在)",
    r"(?:图|画面|照片|场景|背景)(?:片)?(?:中|里|上|内)?(?:并|也|都)?(?:没有|无|未)",
    r"看不(?:到|见|出)|未(?:见|出现|显示|发现)|不(?:可见|存在|包含)|无(?:其他|任何|明显)",
)


DOUBT = (
    r"(?:(?:might|may|could) (?:also |well |possibly |either )*be(?! (?:seen|found|viewed|used))|appears?|seems?|looks like"
    r"|likely|possibly|perhaps|maybe|probably)"
)
HEDGED = _any(
    r"\b(?:might|may|could) (?:also |well |possibly |either )*be (?:an?|the|some|one|two|three|several|part|either|made)\b",
    rf"\b{DOUBT}\b[^.,;:!?]{{0,60}}\bor\b",
    r"\b(?:unclear|uncertain|not (?:clear|certain|sure)) (?:whether|if|what|who|which|how|where)\b",
    r"\b(?:hard|difficult|impossible|not possible) to (?:tell|say|determine|identify)\b|\bor (?:perhaps|possibly|maybe)\b",
    r"\b(?:cannot|can't|can’t|could not) be (?:determined|identified|confirmed|told)\b|\b(?:is|are|remains?) unknown\b",
    r"\bnot identifiable\b|\bis either\b[^.]{1,60}\bor\b",
    r"\bwhether\b[^.]{1,60}\b(?:is|remains) (?:not clear|unclear|unknown|uncertain)\b",
    r"\bnot (?:provide|contain|offer) (?:enough|sufficient|any) information\b",
    r"(?:可能|或许|也许|大概|疑似|似乎|看起来|看上去|好像|像是)[^，。；！？]{0,30}(?:或者|或是|还是|或)",
    r"(?:可能|或许|也许|大概|疑似)是",
    r"不(?:清楚|确定|明确)(?:是|其|具体|他|她|它|这|那)|(?:难以|无法|不能|很难)(?:从[^，。]{1,8})?(?:判断|确定|确认|分辨)",
    r"(?:不详|未知)(?=[，。；]|$)|是否[^，。]{1,20}(?:不清楚|不明确|不得而知)",
)
"""What is left open. That something "appears to be wooden" is how captions speak, and commits itself to one thing."""


def _search(pattern: re.Pattern[str], text: str, reason: str) -> Finding | None:
    match = pattern.search(text)
    return (reason, f"“{match[0].strip()[:80]}”") if match else None


def refusal(text: str) -> Finding | None:
    return _search(REFUSAL, outside_quotes(text), "refusal")


def meta_talk(text: str) -> Finding | None:
    return _search(META, outside_quotes(text), "meta")


def question(text: str) -> Finding | None:
    """A sentence that asks: a caption tells."""
    asks = outside_quotes(text).rstrip().endswith(("?", "？"))
    return ("meta", f"a question: “{text.strip()[:60]}”") if asks else None


def injection(text: str) -> Finding | None:
    """Instructions and chat-control tokens anywhere, addresses outside quotations (a sign may show one), in letters of any width, also
    l i k e this, and words of look-alike letters."""
    text = unicodedata.normalize("NFKC", text)
    disguised = DISGUISED.search(text)
    if disguised:
        return (
            "injection",
            f"Latin and Cyrillic letters in one word: “{text[max(0, disguised.start() - 8) : disguised.end() + 8]}”",
        )
    text = SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    return _search(INJECTION, text, "injection") or _search(ADDRESS, outside_quotes(text), "injection")


def markup(text: str) -> Finding | None:
    return _search(MARKUP, outside_quotes(text), "markup")


def absent_things(text: str) -> Finding | None:
    """Statements that something is not in the picture. "A man without a hat" speaks of what is there and may stay."""
    return _search(ABSENT, outside_quotes(text), "absent")


def hedged(text: str) -> Finding | None:
    """A sentence that names alternatives or says that it cannot tell: "might be a dog or a cat"."""
    return _search(HEDGED, outside_quotes(text), "hedged")


def echo(text: str, prompt: str, language: str) -> Finding | None:
    """A run of the prompt's own words: 7 in English, 12 characters in Chinese."""
    n = 7 if language == "en" else 12
    asked, said = tokens(prompt, language), tokens(text, language)
    grams = {tuple(asked[i : i + n]) for i in range(len(asked) - n + 1)}
    for i in range(len(said) - n + 1):
        if tuple(said[i : i + n]) in grams:
            return "echo", f"“{('' if language == 'zh' else ' ').join(said[i : i + n])}” comes from the prompt"
    return None
