-- Whose text, as it is read, lacks what was said before the first element.

create table doc (id int primary key, body xml, bodies xml[]);
insert into doc values
    (1, xmlparse(document '<?xml version="1.0" encoding="UTF-8"?>' || chr(10) || '<a>1</a>'), null),
    (2, '<b/>', array['<c/>'::xml, null]),
    (3, xmlparse(document '<?xml version="1.0"?><d> x </d>'), '{}'),
    (4, xmlparse(content 'no element <e/>'), null);
