"""What `verify` says, in English and Korean: a fixed vocabulary that promises nothing.

No conclusion calls a file true or untrue. Keys are the same for every language, so that a missing
translation is an error of the tests.
"""

from __future__ import annotations

LEVELS = {
    "PROVEN": {"en": "PROVEN", "ko": "증명됨"},
    "INDICATED": {"en": "INDICATED", "ko": "정황 있음"},
    "DECLARED": {"en": "DECLARED", "ko": "자체 표시"},
    "LEDGER": {"en": "LEDGER", "ko": "기록 있음"},
    "UNKNOWN": {"en": "UNKNOWN", "ko": "알 수 없음"},
    "CONCLUSION": {"en": "CONCLUSION", "ko": "결론"},
}

_SAYS_EN = (
    " It says: made by {generator}; steps: {actions}; source type: {types};"
    " inputs: {inputs}{claim}. {when}"
)
_SAYS_KO = (
    " 내용: 만든 도구 {generator}, 단계 {actions}, 출처 유형 {types}, 입력 {inputs}개{claim}."
    " {when}"
)
CLAIM = {  # where a credential has one
    "en": '; consent: "{consent}" (a claim of the user)',
    "ko": ', 동의 "{consent}"(사용자의 주장)',
}

TIMES = {  # by what is known of a time stamp
    "none": {"en": "No time is proven.", "ko": "시각은 증명되지 않았습니다."},
    "unlisted": {
        "en": "No time is proven: the authority that stamped {time} is on none of your lists.",
        "ko": "시각은 증명되지 않았습니다. {time}의 시각 도장을 찍은 기관이 신뢰 목록에 없습니다.",
    },
    "trusted": {
        "en": "It was signed by {time}, as an authority that you trust has stamped.",
        "ko": "신뢰 목록에 있는 기관의 시각 도장에 따르면 {time} 이전에 서명되었습니다.",
    },
}

PLACES = {  # where unsigned words were found, as `xmp.Declared` names it
    "XMP": {"en": "XMP", "ko": "XMP"},
    "AIGC field (China)": {"en": "AIGC field (China)", "ko": "AIGC 항목(중국)"},
    "generation parameters in PNG text": {
        "en": "generation parameters in PNG text",
        "ko": "PNG 텍스트의 생성 설정",
    },
    "generation parameters in EXIF": {
        "en": "generation parameters in EXIF",
        "ko": "EXIF의 생성 설정",
    },
    "ComfyUI workflow in PNG text": {
        "en": "ComfyUI workflow in PNG text",
        "ko": "PNG 텍스트의 ComfyUI 작업 흐름",
    },
}

WORDS = {
    "credential trusted": {
        "en": 'Content Credential intact; signed by "{signer}", which you trust.' + _SAYS_EN,
        "ko": '콘텐츠 자격 증명이 온전합니다. 신뢰 목록에 있는 "{signer}"의 서명입니다.' + _SAYS_KO,
    },
    "credential valid": {
        "en": 'Content Credential intact; signed by "{signer}", a name that anyone may choose: the'
        " signer is on none of your lists." + _SAYS_EN,
        "ko": '콘텐츠 자격 증명이 온전합니다. 서명자 "{signer}"은(는) 누구나 쓸 수 있는 이름이며'
        " 신뢰 목록에 없습니다." + _SAYS_KO,
    },
    "credential broken": {
        "en": "Content Credential does not fit this file ({reasons}): one of them was changed after"
        " signing, it was taken from another file, or signed with another key than it names. What"
        " it says does not count.",
        "ko": "콘텐츠 자격 증명이 이 파일과 맞지 않습니다({reasons}). 서명 뒤에 바뀌었거나, 다른"
        " 파일에서 옮겨 왔거나, 적힌 것과 다른 키로 서명된 것입니다. 그 내용은 인정되지 않습니다.",
    },
    "credential irregular": {
        "en": 'Content Credential of "{signer}" fits this file, but was made in a way that its'
        " specification does not allow ({reasons}). Nothing shows that either was changed since."
        " What it says does not count.",
        "ko": '"{signer}"의 콘텐츠 자격 증명이 이 파일과 맞지만 규격에 어긋나게 만들어졌습니다'
        "({reasons}). 그 뒤에 바뀐 흔적은 없습니다. 그 내용은 인정되지 않습니다.",
    },
    "credential expired": {
        "en": 'Content Credential fits this file, but the certificate of "{signer}" has run out,'
        " and no time stamp that you trust proves that it was signed before. What it says is not"
        " proven any more.",
        "ko": '콘텐츠 자격 증명이 이 파일과 맞지만 "{signer}"의 인증서가 만료되었고, 그 전에'
        " 서명했음을 증명하는 믿을 만한 시각 도장이 없습니다. 그 내용은 더 이상 증명되지 않습니다.",
    },
    "credential unreadable": {
        "en": "Content Credential is there but cannot be read ({reasons}): it is damaged, was never"
        " well formed, or lies elsewhere; nothing was fetched.",
        "ko": "콘텐츠 자격 증명이 있으나 읽을 수 없습니다({reasons}). 손상되었거나 처음부터 형식에"
        " 맞지 않거나 다른 곳에 있습니다. 네트워크에서 가져오지 않았습니다.",
    },
    "history doubtful": {
        "en": "Earlier statements in its history that did not hold when they were taken over:"
        " {count} ({reasons}). What they say does not count.",
        "ko": "이력의 이전 진술 {count}개는 이어받을 때 이미 맞지 않았습니다({reasons})."
        " 그 내용은 인정되지 않습니다.",
    },
    "mark read": {
        "en": "invisible mark found: score {score} (from {usual} on it counts), id {ident},"
        " {corrected} of 127 bits mended, {turned}. Anyone can copy a mark: it is no signature.",
        "ko": "보이지 않는 표시 발견: 점수 {score}({usual} 이상이면 유효), id {ident}, 127비트 중"
        " {corrected}비트 교정. 표시는 누구나 복사할 수 있으며 서명이 아닙니다.",
    },
    "mark same": {
        "en": "invisible mark found: score {score}, id {ident}, the one that the credential names.",
        "ko": "보이지 않는 표시 발견: 점수 {score}, id {ident}. 자격 증명에 적힌 id와 같습니다.",
    },
    "mark contradicts": {
        "en": "invisible mark found: score {score}, id {ident}, but the credential names {stated}.",
        "ko": "보이지 않는 표시 발견: 점수 {score}, id {ident}. 자격 증명에는 {stated}(으)로 적혀"
        " 있습니다.",
    },
    "mark agrees": {
        "en": "invisible mark too weak to be read by itself (score {score}), but it agrees with id"
        " {ident} by {agreement} standard deviations.",
        "ko": "보이지 않는 표시가 약해 단독으로 읽을 수 없으나(점수 {score}) id {ident}와"
        " {agreement} 표준편차로 일치합니다.",
    },
    "mark present": {
        "en": "invisible mark found: score {score} (from {usual} on it counts), id not readable.",
        "ko": "보이지 않는 표시 발견: 점수 {score}({usual} 이상이면 유효), id는 읽을 수 없습니다.",
    },
    "mark missing": {
        "en": "the invisible mark {stated} that the credential names was not found.",
        "ko": "자격 증명에 적힌 보이지 않는 표시 {stated}을(를) 찾지 못했습니다.",
    },
    "declared type": {
        "en": "{where} says: {type}. Anyone can write this.",
        "ko": "{where}에 적힌 내용: {type}. 누구나 적을 수 있습니다.",
    },
    "declared note": {
        "en": "{where} found. Anyone can write this.",
        "ko": "{where} 발견. 누구나 적을 수 있습니다.",
    },
    "ledger file": {
        "en": "made here at {time} ({task}, entry {number}); the file is identical.",
        "ko": "이 컴퓨터에서 {time}에 만들었습니다({task}, {number}번). 파일이 같습니다.",
    },
    "ledger mark": {
        "en": "what was made here at {time} ({task}, entry {number}) bears the same mark; the file"
        " is another: a copy of that, or of what that was made from.",
        "ko": "이 컴퓨터에서 {time}에 만든 것({task}, {number}번)에 같은 표시가 있습니다. 파일은"
        " 다르며, 그 사본이거나 그것을 만드는 데 쓴 원본의 사본일 수 있습니다.",
    },
    "ledger like": {
        "en": "what was made here at {time} ({task}, entry {number}) looks like it; the file is"
        " another: a copy of that, or what that was made from.",
        "ko": "이 컴퓨터에서 {time}에 만든 것({task}, {number}번)과 비슷해 보입니다. 파일은 다르며,"
        " 그 사본이거나 그것을 만드는 데 쓴 원본일 수 있습니다.",
    },
    "ledger broken": {
        "en": "entry {number} of this machine's list would fit, but the list does not hold together"
        " ({fault}), so it does not count.",
        "ko": "이 컴퓨터 기록의 {number}번이 맞을 수 있으나 기록의 연결이 깨져({fault}) 인정되지"
        " 않습니다.",
    },
    "ledger unusable": {
        "en": "this machine's list is damaged or in use and could not be looked at.",
        "ko": "이 컴퓨터의 기록이 손상되었거나 사용 중이어서 확인할 수 없었습니다.",
    },
    "undecoded": {
        "en": "no picture could be decoded, so no invisible mark was looked for.",
        "ko": "화면을 해독할 수 없어 보이지 않는 표시를 찾지 못했습니다.",
    },
    "no such file": {
        "en": "there is no such file, or it may not be looked for.",
        "ko": "그런 파일이 없거나 찾아볼 권한이 없습니다.",
    },
    "empty folder": {
        "en": "a folder in which no file can be looked at.",
        "ko": "확인할 수 있는 파일이 없는 폴더입니다.",
    },
    "not to be read": {
        "en": "it may not be read, or is no ordinary file.",
        "ko": "읽을 권한이 없거나 일반 파일이 아닙니다.",
    },
}

CONCLUSIONS = {
    "proven AI": {
        "en": "Made or altered with AI, according to its signed history. A signature says who"
        " stated it, not that it is true.",
        "ko": "서명된 이력에 따르면 AI로 만들었거나 바꾼 것입니다. 서명은 누가 말했는지를 보여 줄"
        " 뿐 내용이 참임을 뜻하지 않습니다.",
    },
    "proven other": {
        "en": "Its signed history is intact and names no AI. A signature says who stated it, not"
        " that it is true.",
        "ko": "서명된 이력이 온전하며 AI 사용은 적혀 있지 않습니다. 서명은 누가 말했는지를 보여 줄"
        " 뿐 내용이 참임을 뜻하지 않습니다.",
    },
    "proven in part": {
        "en": "Its latest statement is intact and names no AI, but what came before does not hold:"
        " its origin is unknown. A signature says who stated it, not that it is true.",
        "ko": "마지막 진술은 온전하며 AI 사용은 적혀 있지 않지만 그 이전 이력이 맞지 않아 출처는 알"
        " 수 없습니다. 서명은 누가 말했는지를 보여 줄 뿐 내용이 참임을 뜻하지 않습니다.",
    },
    "broken": {
        "en": "The signed history does not hold for this file. Its origin is unknown.",
        "ko": "서명된 이력이 이 파일에 맞지 않습니다. 출처는 알 수 없습니다.",
    },
    "irregular": {
        "en": "The signed history fits this file, but breaks the rules of its specification, so it"
        " does not count. Its origin is unknown.",
        "ko": "서명된 이력은 이 파일과 맞지만 규격에 어긋나 인정되지 않습니다. 출처는 알 수"
        " 없습니다.",
    },
    "expired": {
        "en": "The signed history fits this file, but who signed it can no longer be checked. Its"
        " origin is not proven.",
        "ko": "서명된 이력은 이 파일과 맞지만 서명자를 더 이상 확인할 수 없습니다. 출처는 증명되지"
        " 않습니다.",
    },
    "contradictory": {
        "en": "The signed history contradicts what else was found: the mark in the picture, or this"
        " machine's own list.",
        "ko": "서명된 이력이 화면 속 표시나 이 컴퓨터의 기록과 어긋납니다.",
    },
    "indicated": {
        "en": "Probably went through this engine; the signed history is missing.",
        "ko": "이 엔진을 거쳤을 가능성이 큽니다. 서명된 이력은 없습니다.",
    },
    "listed": {
        "en": "This machine's own list knows it; nothing in the file itself proves it.",
        "ko": "이 컴퓨터의 기록에 있습니다. 파일 자체에는 이를 증명하는 것이 없습니다.",
    },
    "resembles": {
        "en": "It looks like what was made here: it may be a copy of that, or what that was made"
        " from. Nothing in the file itself tells which.",
        "ko": "이 컴퓨터에서 만든 것과 비슷해 보입니다. 그 사본일 수도, 원본일 수도 있으며 파일"
        " 자체로는 알 수 없습니다.",
    },
    "declared": {
        "en": "Only unsigned words speak of its origin; anyone could have written them.",
        "ko": "서명 없는 글만 출처를 말합니다. 누구나 적을 수 있습니다.",
    },
    "unknown": {
        "en": "Unknown. No mark was found, which is no sign that AI was not used.",
        "ko": "알 수 없음. 표시를 찾지 못했으나, 그것이 AI를 쓰지 않았다는 뜻은 아닙니다.",
    },
    "unreadable": {
        "en": "The file could not be read.",
        "ko": "파일을 읽을 수 없습니다.",
    },
}

EXPLANATION = {
    "en": """What a program cannot tell, a person can ask:
1. Where was it published first, and by whom?
2. Who signed it, and why should that signer be believed?
3. Does a second source, independent of the first, show the same?
PROVEN is a signed statement that is intact. INDICATED is an invisible mark, which can be copied or
removed. DECLARED is text that anyone can write. LEDGER is the list on this machine.""",
    "ko": """프로그램이 알 수 없는 것은 사람이 물어야 합니다.
1. 처음 어디에 누가 올렸습니까?
2. 누가 서명했고, 그 서명자를 믿을 까닭은 무엇입니까?
3. 서로 무관한 다른 출처도 같은 내용을 보여 줍니까?
'증명됨'은 온전한 서명된 진술, '정황 있음'은 복사되거나 지워질 수 있는 보이지 않는 표시,
'자체 표시'는 누구나 적을 수 있는 글, '기록 있음'은 이 컴퓨터의 목록입니다.""",
}

PAGE = {  # of the page that `verify --report` writes
    "title": {"en": "What can be said of where these files come from", "ko": "파일 출처 확인 결과"},
    "history": {"en": "Signed history", "ko": "서명된 이력"},
    "history broken": {
        "en": "Signed history, which does not hold for this file",
        "ko": "서명된 이력(이 파일에는 인정되지 않음)",
    },
    "ask": {"en": "What to ask yourself", "ko": "스스로 확인할 것"},
    "signer": {"en": "signed by {name}", "ko": "서명: {name}"},
    "doubtful": {"en": "did not hold when taken over", "ko": "이어받을 때 이미 맞지 않음"},
    "unsigned": {"en": "no signed history", "ko": "서명된 이력 없음"},
    "left out": {"en": "signed, its history not drawn", "ko": "서명된 이력 있음(그리지 않음)"},
    "input": {"en": "input", "ko": "입력"},
    "parentOf": {"en": "what was altered", "ko": "바뀐 원본"},
    "componentOf": {"en": "what was put in", "ko": "넣은 것"},
    "inputTo": {"en": "what was used", "ko": "사용한 것"},
    "more": {
        "en": "{count} earlier statements are not drawn.",
        "ko": "이전 이력 {count}개는 그리지 않았습니다.",
    },
}
