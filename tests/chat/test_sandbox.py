import pytest

from service.chat.sandbox import ChatTemplate, TemplateFailure


def render(source, **variables):
    return ChatTemplate(source).render(variables)


def test_blocks_leave_no_white_space():
    assert render("{% if true %}\n  {% set x = 1 %}\nyes\n{% endif %}\n") == "yes\n"


def test_loops_can_be_left_and_continued():
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(source) == "02"


def test_generation_tag_is_its_body():
    assert render("a{% generation %}b{{ x }}{% endgeneration %}c", x=1) == "ab1c"


def test_tojson_writes_json_and_not_html():
    assert render("{{ x | tojson }}", x={"a": "<é>'"}) == '{"a": "<é>\'"}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"


def test_failure_of_the_template_names_its_line():
    with pytest.raises(TemplateFailure, match=r"^line 3: roles must alternate$") as failure:
        render("a\nb\n{{ raise_exception('roles must alternate') }}\n")
    assert failure.value.line == 3


def test_failure_inside_a_macro_names_its_line():
    source = "{% macro f(x) %}\n{{ x + 1 }}\n{% endmacro %}\n{{ f('a') }}"
    with pytest.raises(TemplateFailure, match=r"^line 2: "):
        render(source)


def test_syntax_error_names_its_line():
    with pytest.raises(TemplateFailure, match=r"^line 2: "):
        ChatTemplate("a\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set x = messages.__init__.__globals__ %}{{ x }}",
        "{% include 'other' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{% from 'os' import system %}",
        "{{ lipsum(9) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__.os }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '%s'|format(messages.__class__.__base__.__subclasses__()) }}",
        "{{ messages|map(attribute='__class__.__mro__')|join }}",
        "{{ self._TemplateReference__context.environment.globals.clear() }}",
        "{{ open('/etc/passwd') }}",
    ],
)
def test_templates_reach_nothing_outside(source):
    with pytest.raises(TemplateFailure):
        render(
            source + "{{ raise_exception('reached') if false }}{{ missing.attribute }}",
            messages=[1],
        )


def repeat(start, body):
    """Does something to `ns.x` again and again."""
    loop = "{% for i in range(99) %}" + body + "{% endfor %}"
    return "{% set ns = namespace(x=" + start + ") %}" + loop


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(99) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        repeat("'a'", "{% set ns.x = ns.x ~ ns.x %}"),
        repeat("'a'", "{% set ns.x = ns.x + ns.x %}"),
        repeat("'a'", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        repeat("[1]", "{% set ns.x = ns.x + ns.x %}"),
        repeat("3", "{% set ns.x = ns.x * ns.x %}"),
        "{{ 'a' * 999999 * 999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, '999999999') }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ ([('a' * 1000000)] * 100000) | join }}",
        "{{ ''.join([('a' * 1000000)] * 100000) }}",
        "{{ ('a' * 1000000) | replace('a', 'a' * 1000000) }}",
        "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}",
        "{{ 'a' | indent(999999999) }}",
        "{{ [1] | tojson(indent=999999999) }}",
        "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}",
        "{{ range(999999999) | list }}",
    ],
)
def test_work_and_memory_of_a_template_are_bounded(source):
    with pytest.raises(TemplateFailure):
        render(source)


def test_prompts_of_many_messages_are_within_bounds():
    source = "{% for m in messages %}{{ '<' ~ m.role ~ '>' + m.content }}{% endfor %}"
    messages = [{"role": "user", "content": "word " * 2000}] * 1000
    assert len(render(source, messages=messages)) > 10_000_000
