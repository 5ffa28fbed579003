"""The word lists of product_types: plain data, meant to be read and corrected."""

from typing import Final

from aigq.sources.product_names import pairs

_ABBREVIATIONS = """
sft=soft; drnk=drink; drnks=drinks; btl=bottle; btls=bottles; frzn=frozen; frz=frozen; fre=fresh;
refrig=refrigerated; refigerated=refrigerated; refri=refrigerated; chix=chicken; chick=chicken; chp=chop;
chps=chops; brd=breaded; brds=breads; grnd=ground; ptty=patty; shldr=shoulder; shnk=shank; flnk=flank;
brskt=brisket; brst=breast; rst=roast; stw=stew; saus=sausage; lnchmt=lunch meat; lunchmeat=lunch meat;
luncheon=lunch; ppk=packaged; prepack=packaged; prpck=packaged; prepackaged=packaged; preportnd=portions;
preslc=sliced; preslcd=sliced; prslc=sliced; slc=sliced; cnd=canned; can=canned; cans=canned; choc=chocolate;
choco=chocolate; chocola=chocolate; chocol=chocolate; chocoeclate=chocolate; chocoeclate=chocolate;
chococlate=chocolate; chocol=chocolate; cran=cranberry; fd=food; flvr=flavored; flvrd=flavored; flav=flavored;
flv=flavored; frt=fruit; gds=goods; hygn=hygiene; fem=feminine; jce=juice; juic=juice; jui=juice; ju=juice;
lg=large; lrg=large; liq=liquid; liqs=liquid; lss=less; thn=than; mlt=multi; mult=multi; mltpk=multipack;
mrgrn=margarine; natrl=natural; nat=natural; nt=natural; nutritional=nutrition; ntrtnl=nutrition;
nut supp=supplement; plt=plant; plts=plants; pk=pack; pkg=packaged; pkgd=packaged; plstc=plastic;
prem=premium; proc=processed; pwdr=powder; pwdrs=powder; rw=; sal=salad; sgl=single; sngl=single;
serv=serving; sv=single serve; srv=serve; snk=snack; snks=snacks; ss=single serve; spec=specialty;
spclty=specialty; specilaty=specialty; speclty=specialty; speciality=specialty; stk=stick; str=stir;
sup=super; supp=supplement; supplemen=supplement; sw=sweet; swt=sweet; swe=sweet; swee=sweet;
sweeten=sweetened; tom=tomato; toms=tomatoes; tort=tortilla; trans=transmission; vac=vacuum; vit=vitamin;
veg=vegetable; wat=water; wtr=water; wate=water; wh=whole; whl=whole; wht=white; xmas=christmas; yng=young;
kids=kids; mens=mens; entrees=entrees; entree=entree; dnrs=dinners; dnrrs=dinners; prep=prepared;
preprd=prepared; dl=deli; coff=coffee; crm=cream; crmd=creamed; crbntd=carbonated; carb=carbonated;
bev=beverage; beverag=beverages; bk=bakery; bkngwares=bakeware; cookng=cooking; cntrl=control;
conc=concentrate; combin=combination; cke=cake; dan=danish; decaffinated=decaf; dece=; deod=deodorant;
dete=detergent; dips=dips; dps=dips; pickls=pickles; pickld=pickled; drnkng=drinking; drnking=drinking;
mneral=mineral; mnr=mineral; mnrl=mineral; dxm=; pse=; eng=english; esp=; etc=; ex=; exc=; exce=; excp=;
except=; fs=; gnger=ginger; gng=ginger; gngr=ginger; hbc=care; indr=indoor; ingred=ingredients; iqf=frozen;
iws=sliced; lozng=lozenges; syrp=syrup; drp=drops; xpctrnt=expectorant; marin=marinade; marinad=marinade; mi=;
misc=assorted; miscellaneous=assorted; fds=food; mlk=milk; moist=moist; n=; o=; b=; c=; s=; u=; pac=packed;
past=pasta; pnch=punch; pnut=peanut; pnt=peanut; btr=butter; portn=portions; porton=portions; pro=;
rbr=rubber; reg=regular; resc=; retl=retail; rtd=ready to drink; rts=ready to serve; sce=sauce; seafd=seafood;
seasn=seasonal; shlfsh=shellfish; smi=semi; sld=salad; soc=; stw=stew; subs=substitutes; sug=sugar;
trad=traditional; traditiona=traditional; traditionl=traditional; unsweet=unsweetened; unswe=unsweetened;
val=value; vend=vending; mach=machine; w=; wo=without; worchester=worcestershire; protien=protein;
dipilatories=hair removal; linaments=pain relief rub; analgesics=pain relief; catsup=ketchup; tissue=tissue;
bathroom=bathroom; cig=cigarette; ltr=lighter; catfd=cat food; dogfd=dog food; cilanto=cilantro;
ranier=rainier; rechargable=rechargeable; recharable=rechargeable; accss=accessories; acc=accessories;
acces=accessories; access=accessories; gm=; bnls=boneless; bx=box; chub=roll; cktls=cocktails; ctn=carton;
brkfst=breakfast; whlsm=wholesome; cleang=cleaning; cleane=cleaner; clothing=clothing; crackers=crackers;
cracke=crackers; cooki=cookies; crsp=crisp; cutup=cut up; frd=fried; frk=; minwtr=mineral water; fry=fry;
refrgratd=refrigerated; rx=; disp=disposable; containr=container; containers=containers; diapr=diaper;
diet=diet; dom=; drg=; elsctc=electric; equip=equipment; fash=fashion; fl=; flourscent=fluorescent;
foilware=foil pans; foods=food; goldfish=goldfish; handke=handkerchiefs; hh=; hngrs=hangers;
orgnzrs=organizers; houseplay=house play; hse=; hygiene=hygiene; implements=tools; jhook=; kettles=kettles;
klr=killer; lndry=laundry; med=medium; meds=medicine; mfg=; mth=mouth; mus=; mustar=mustard; needs=supplies;
nov=novelty; occas=occasion; otc=over the counter; oth=; othe=; otyher=; otyherother=; perf=perfume;
persnl=personal; picants=picante; pkls=pickles; popp=popped; pot=pot; prod=produce; produ=products;
produc=products; prophylactics=condoms; contraceptives=condoms; pur=; qsr=; quar=; rolls=rolls; sb=;
sect=sections; shr=; snsl=seasonal; spf=spf; spt=sport; sprd=spread; strp=strip; suprt=support; sys=system;
tb=; todd=toddler; tops=tops; tropicals=tropical plants; undergarmen=underwear; vets=; vhs=vhs; wearables=;
wps=wipes; wt=; exact=; wra=wraps; sandwic=sandwiches; chunk=chunks; lif=; inf=infant; beerale=beer;
beeralemalt=beer; handhelds=hot pockets; hotdog=hot dog; cored=cored; tv=tv; inch=inch; in=in; elect=; lbs=lb;
marinade=marinade; non=non; mixers=mixers; ltd=; juices=juice; breads=bread; creams=cream; oils=oil; lss=less;
bskts=baskets; cnt=; lotion=lotion; sanitary=sanitary; napkins=napkins; unbreakable=plastic
"""
_FILLER = """
all other others assorted incl including included inclu includi except any etc types type item items pack
products product produc variety general not no exact bulk bag and or the with for of only brands special
regular standard multi s a b c retail consumer jhook
"""
_HEADS = """
chix:=chicken; cakes:=cake; cake:=cake; cookies:=cookies; bread:=bread; bread -=bread; pies:=pie;
rolls:=rolls; party trays:=party tray; deli tray:=deli tray; meat:=deli meat; cheese:=cheese; sw gds:=;
sweet goods:=; prep fd:=; prep foods:=; sv bev:=drink; dl spec:=deli; sal:=salad; salad:=salad; qsr fd:=;
qsr=; coff shop:=coffee shop; coffee shop:=coffee shop; bk speclty:=; pizza/=frozen pizza;
seafood-frz-iqf=frozen; seafood-frz-brd=frozen breaded fish; seafood-frz-=frozen seafood;
seafood-fre-=fresh seafood; seafood-misc-=seafood; nut supp-=supplement; vitamin -=vitamins;
continuity:=collection; snacks:=snacks; margarine:=margarine; flour:=flour; yeast:=yeast;
tomatoes:=canned tomatoes; pasta:=pasta; fitness&diet-=fitness; fitness&diet -=fitness; fitness&diet=fitness;
fitness & diet -=fitness; misc:=; potatoes:=potatoes; eggs -=eggs; juice (=juice; hams-=ham; ham-=ham;
ice -=ice; rice -=rice; dairy case=refrigerated; isotonic drinks=sports drink; sponges:=sponges;
brooms:=brooms; mops:=mops; batteries:=batteries; cosmetics:=; cold and flu=cold and flu medicine;
bathroom cleaners -=bathroom cleaner; air care -=air freshener; floor -=floor cleaner;
jewelry/costume=jewelry; variety meat -=pork variety meat; smoked/cooked -=smoked sausage
"""
_FRONT = """
apples pears onions potatoes tomatoes peppers mushrooms carrots grapes oranges watermelon nectarines peaches
cherries squash melons beans mums
"""
_LAST = """
microwave dry sweetened unsweetened seasonal liquid canned cold hot boneless bone-in frozen shelled inshell
packaged whole processed refrigerated unflavored decorated dried marinated breaded
"""
_VAGUE = """
premium value economy traditional standard super ultra basic mainstream lean choice select natural regular
smoked cooked raw fresh frozen dry hot cold bulk packaged single serve large small medium half whole other
specialty kosher assorted seasonal promotional promo novelty novelties sliced boneless bone-in bone in out
gift sets kits cups mini flavored organic general patties links rolls roast steak steaks loin ground patty
kabobs ribs chops strips cubes wings drums thighs breast legs leg quarters end ends shoulder blade center
cut up variety everyday classic gourmet adult kids children infant domestic imported red white yellow accent
accessories supplies decor promotion better you
"""
_NOUNS = """
ICE CREAM/MILK/SHERBTS=ice cream; BAKED BREAD/BUNS/ROLLS=bread; COLD CEREAL=cereal; BEEF=beef; PORK=pork;
LAMB=lamb; CHICKEN=chicken; TURKEY=turkey; VEAL=veal; PASTA SAUCE=pasta sauce; LUNCHMEAT=lunch meat;
DINNER SAUSAGE=sausage; HOT DOGS=hot dogs; BACON=bacon; BREAKFAST SAUSAGE/SANDWICHES=breakfast sausage;
SALAD MIX=salad mix; HEAT/SERVE=dinner; FRZN NOVELTIES/WTR ICE=ice cream novelties; MEAT - MISC=meat;
MEAT - SHELF STABLE=canned meat; DINNER MXS:DRY=dinner mix; CONVENIENT BRKFST/WHLSM SNACKS=snack bars;
SMOKED MEATS=smoked ham; SEAFOOD - SHELF STABLE=canned fish; DELI MEATS=deli meat;
FRUIT - SHELF STABLE=canned fruit; VEGETABLES - SHELF STABLE=canned vegetables; FROZEN PIZZA=frozen pizza;
MELONS=melons; DOMESTIC WINE=wine; IMPORTED WINE=imported wine; LIQUOR=liquor; TOYS AND GAMES=toys;
MAKEUP AND TREATMENT=makeup; HOUSEHOLD CLEANG NEEDS=cleaner; PLASTIC HOUSEWARES=plastic storage;
AUDIO/VIDEO PRODUCTS=dvd and audio; FLORAL-FRESH CUT=flowers; FLORAL-FLOWERING PLANTS=flowering plants;
FLORAL - FLOWERING PLANTS=flowering plants; GARDEN CENTER=garden; SOUP=soup;
FLORAL-FOLIAGE PLANTS=foliage plants; FLORAL BALLOONS=balloons; FLORAL-ACCESSORIES=floral accessories;
HALLOWEEN=halloween; CHRISTMAS  SEASONAL=christmas; SPRING/SUMMER SEASONAL=summer;
FALL AND WINTER SEASONAL=winter; NON-DAIRY BEVERAGES=non dairy drink; COUPON/MISC ITEMS=;
PREPARED/PKGD FOODS=packaged food; REFRIGERATED=refrigerated; FROZEN=frozen; BAKING NEEDS=baking;
EXOTIC GAME/FOWL=game; FROZEN MEAT=frozen meat; CANDY - PACKAGED=candy; CANDY - CHECKLANE=candy;
APPAREL=apparel; COOKWARE & BAKEWARE=cookware; STATIONERY & SCHOOL SUPPLIES=stationery;
GREETING CARDS/WRAP/PARTY SPLY=party supplies; INFANT CARE PRODUCTS=baby; SALAD BAR=salad bar;
SNKS/CKYS/CRKR/CNDY=natural snacks; PACKAGED NATURAL SNACKS=natural snacks
"""


WORDS: Final = pairs(_ABBREVIATIONS)
HEADS: Final = dict(sorted(pairs(_HEADS).items(), key=lambda pair: -len(pair[0])))
NOUNS: Final = pairs(_NOUNS)
FILLER: Final = frozenset(_FILLER.split())
FRONT: Final = frozenset(_FRONT.split())
LAST: Final = frozenset(_LAST.split())
VAGUE: Final = frozenset(_VAGUE.split())
