"""Jinja templates that write the formats of the model families, by the format that must be recognised in each.

Written for this test after the formats that the families document, in the styles that their tokenizer_config.json files
have; parts that concern tool definitions are left out. `compare_chat_templates.py --templates DIR` takes the originals.
"""

ALTERNATE = "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}"
CHATML_TURN = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
CHATML_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def chatml_default(system):
    return ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\\n" + system + "<|im_end|>\\n' }}{% endif %}" + CHATML_TURN + "{% endfor %}" + CHATML_PROMPT)


TOOL_TURNS = """
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
"""

QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}""" + TOOL_TURNS + "{%- endif %}"

QWEN_SYSTEM = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
"""

QWEN3_2507 = QWEN_SYSTEM + """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "user" or message.role == "assistant" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}""" + TOOL_TURNS + "{%- endif %}"

QWEN3 = QWEN_SYSTEM + """{%- set ns = namespace(open=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = messages|length - 1 - loop.index0 %}
    {%- if ns.open and message.role == "user" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.open = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}""" + TOOL_TURNS + """    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

LLAMA3_TURN = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>'"
LLAMA3_PROMPT = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"


def llama31(date):
    return """{{- bos_token }}
{%- if not date_string is defined %}
""" + date + """
{%- endif %}
{#- The system message goes into the block with the dates. -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is defined %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if system_message %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role != 'tool' %}
        {{- """ + LLAMA3_TURN + """ }}
    {%- else %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content | tojson }}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
""" + LLAMA3_PROMPT


def mistral(user, answer):
    return ("{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}{{ " + user + " }}"
            "{% elif message['role'] == 'assistant' %}{{ " + answer + " }}{% endif %}{% endfor %}")


MISTRAL_SYSTEM = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
"""

MISTRAL_V1 = MISTRAL_SYSTEM + """{{- bos_token }}
{%- for message in loop_messages %}
    """ + ALTERNATE + """
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- endif %}
{%- endfor %}
"""


def mistral_v3(space, answer):
    return MISTRAL_SYSTEM + """{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must take turns") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]""" + space + """" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]""" + space + """" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- """ + answer + """}}
    {%- endif %}
{%- endfor %}
"""


GEMMA_ROLE = "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
GEMMA_PROMPT = "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
         "{% for message in messages %}" + ALTERNATE + GEMMA_ROLE +
         "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}" + GEMMA_PROMPT)
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    """ + ALTERNATE + GEMMA_ROLE + """
    {{- '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
""" + GEMMA_PROMPT

# (format, template): some formats in several spellings.
TEMPLATES = [
    ('chatml', "{% for message in messages %}" + CHATML_TURN + "{% endfor %}" + CHATML_PROMPT),
    ('chatml', """{{ bos_token }}{%- for message in messages -%}
    {{- "<|im_start|>" + message.role }}
    {{- "\\n" + message.content + "<|im_end|>\\n" -}}
{%- endfor -%}
{# The answer begins here. #}
{% if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" -}}
{% endif %}
"""),
    ('chatml', chatml_default('You are a careful test of this server, not a model')),
    ('qwen2', chatml_default('You are a helpful assistant.')),
    ('qwen2.5', QWEN25),
    ('qwen3', QWEN3),
    ('qwen3-2507', QWEN3_2507),
    ('llama3', "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " + LLAMA3_TURN +
     " %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" + LLAMA3_PROMPT),
    ('llama3.1', llama31('{%- set date_string = "26 Jul 2024" %}')),
    ('llama3.1', llama31('{%- set date_string = "01 Jan 2025" %}')),
    ('llama3.2', llama31('{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}')),
    ('mistral-v0.1', mistral("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token + ' '")),
    ('mistral-v0.2', mistral("'[INST] ' + message['content'] + ' [/INST]'", "message['content'] + eos_token")),
    ('mistral-v1', MISTRAL_V1),
    ('mistral-v3', mistral_v3(' ', '" " + message["content"]|trim + eos_token')),
    ('mistral-v3-tekken', mistral_v3('', 'message["content"] + eos_token')),
    ('gemma', GEMMA),
    ('gemma3', GEMMA3),
]

# Close to one of the formats, and not it: these must be refused.
UNKNOWN = [
    "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}",
    # No newline behind a turn; trimmed content; another default; a last turn left open; another prompt.
    TEMPLATES[0][1].replace("'<|im_end|>' + '\\n'", "'<|im_end|>'"),
    TEMPLATES[0][1].replace("message['content']", "message['content'] | trim"),
    chatml_default('You are here.').replace("messages[0]['role'] != 'system'", "messages[1]['role'] != 'system'"),
    TEMPLATES[0][1].replace(" + '<|im_end|>' + '\\n'}}", "}}{% if not loop.last %}{{ '<|im_end|>\\n' }}{% endif %}"),
    TEMPLATES[0][1].replace("assistant\\n", "assistant\\n<think>\\n"),
    # A newline that Jinja keeps.
    TEMPLATES[0][1].replace("{% endfor %}", "\n{% endfor %}"),
    QWEN3.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"),
    QWEN25.replace('<tool_response>', '<result>'),
    # Llama 2.
    "{% for message in messages %}{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}{% endfor %}",
    GEMMA.replace(' | trim', ''),
    LLAMA3_PROMPT,
]
